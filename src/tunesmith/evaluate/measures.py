"""Each measure as lm-eval task configurations over the rows of a split."""

import re
from collections.abc import Callable, Sequence

from datasets import Dataset
from rouge_score.rouge_scorer import RougeScorer
from transformers import PreTrainedTokenizerBase

from tunesmith.config.task import Task
from tunesmith.evaluate.adversarial import adversarial
from tunesmith.evaluate.canary import canary
from tunesmith.evaluate.requests import Config, Doc, generation_settings, metrics, renderer
from tunesmith.records import Row

SPLIT = "items"


def configure(task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Config]:
    """The lm-eval configurations of a task; several where it measures in several ways."""
    configs, made = MEASURES[task.measure](task), []
    usual = [] if all("make_doc" in config for _, config in configs) else [make_doc(row, tokenizer) for row in rows]
    for suffix, config in configs:
        own = config.pop("make_doc", None)
        docs = [own(row, renderer(tokenizer)) for row in rows] if own else usual
        made.append({**config, **source(docs), "task": f"{task.name}{suffix}"})
    return made


def make_doc(row: Row, tokenizer: PreTrainedTokenizerBase) -> Doc:
    """An item as the harness sees it: the rendered prompt, the reference reply, the row's own fields."""
    doc = {key: value for key, value in row.items() if key != "messages"}
    if "text" in row and "messages" not in row:
        return {**doc, "tokens": len(tokenizer(row["text"], add_special_tokens=False)["input_ids"])}
    if "messages" not in row:
        return {**doc, "prompt": f"Question: {row['question']}\nAnswer:", "delimiter": " "}
    messages = list(row["messages"])
    reply = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # lm-eval moves the prompt's last whitespace into the continuation, so it is counted with the reply
    whole, alone = tokenizer([prompt + reply, prompt.rstrip()], add_special_tokens=False)["input_ids"]
    return {**doc, "prompt": prompt, "delimiter": "", "reply": reply, "reply_tokens": len(whole) - len(alone)}


def source(docs: Sequence[Doc]) -> Config:
    """Where lm-eval takes the items from: this list."""
    return {
        "custom_dataset": lambda **_: {SPLIT: Dataset.from_list(list(docs))},
        "test_split": SPLIT,
        "num_fewshot": 0,
        "metadata": {"version": 1},
    }


def generation(task: Task) -> Config:
    """Greedy generation of a reply."""
    return {
        "output_type": "generate_until",
        "doc_to_text": lambda doc: doc["prompt"],
        "generation_kwargs": generation_settings(task),
    }


def extract(task: Task) -> list[tuple[str, Config]]:
    """Compare what `pattern` finds in the reply with the row's `answer`. Metric: exact_match."""
    pattern = re.compile(task.pattern)

    def process(doc: Doc, results: Sequence[str]) -> dict[str, float]:
        found = pattern.search(results[0])
        return {"exact_match": float(found is not None and found.group(1) == doc[task.answer])}

    config = {**generation(task), "doc_to_target": lambda doc: doc[task.answer], "process_results": process}
    return [("", {**config, "metric_list": metrics("exact_match")})]


def rouge(task: Task) -> list[tuple[str, Config]]:
    """ROUGE-L F1 (Lin, 2004) of the reply, and the perplexity per token of the reference reply."""
    scorer = RougeScorer(["rougeL"], use_stemmer=True)

    def process(doc: Doc, results: Sequence[str]) -> dict[str, float]:
        return {"rouge_l": scorer.score(doc["reply"], results[0])["rougeL"].fmeasure}

    def process_likelihood(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
        return {"perplexity": (results[0][0], doc["reply_tokens"])}

    generated = {**generation(task), "process_results": process, "metric_list": metrics("rouge_l")}
    likelihood: Config = {
        "output_type": "loglikelihood",
        "doc_to_text": lambda doc: doc["prompt"],
        "process_results": process_likelihood,
        "metric_list": [{"metric": "perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
    }
    target = {"doc_to_target": lambda doc: doc["reply"]}
    return [("", {**generated, **target}), (".likelihood", {**likelihood, **target})]


def multiple_choice(task: Task) -> list[tuple[str, Config]]:
    """Rank the choices by likelihood. Metrics: acc, and acc_norm after dividing by length."""
    config: Config = {
        "output_type": "multiple_choice",
        "doc_to_text": lambda doc: doc["prompt"],
        "doc_to_choice": lambda doc: [doc["delimiter"] + choice for choice in doc["choices"]],
        "doc_to_target": lambda doc: doc["answer"],
        "target_delimiter": "",
        "metric_list": metrics("acc", "acc_norm"),
    }
    return [("", config)]


def perplexity(task: Task) -> list[tuple[str, Config]]:
    """Perplexity per token of plain text, from its first token on."""

    def process(doc: Doc, results: Sequence[float]) -> dict[str, tuple[float, int]]:
        return {"perplexity": (results[0], doc["tokens"])}

    config: Config = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": lambda doc: "",
        "doc_to_target": lambda doc: doc["text"],
        "process_results": process,
        "metric_list": [{"metric": "perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
    }
    return [("", config)]


MEASURES: dict[str, Callable[[Task], list[tuple[str, Config]]]] = {
    "extract": extract,
    "rouge": rouge,
    "multiple_choice": multiple_choice,
    "perplexity": perplexity,
    "adversarial": adversarial,
    "canary": canary,
}
