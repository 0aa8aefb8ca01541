"""Each measure as lm-eval task configurations over the rows of a split."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tunesmith.config.task import Task
from tunesmith.data.tasks import right_answers
from tunesmith.evaluate import text
from tunesmith.evaluate.adversarial import adversarial
from tunesmith.evaluate.canary import canary
from tunesmith.evaluate.dialogue import Scorer, dialogue
from tunesmith.evaluate.prompts import make_doc
from tunesmith.evaluate.requests import Config, Doc, generation_settings, metrics, renderer
from tunesmith.records import Row

Parts = list[tuple[str, Config]]

SPLIT = "items"
VERSION = 1
"""Of the measures in this file; part of what makes scores comparable."""


def configure(
    task: Task, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, scorer: Scorer, *, separate: bool = False
) -> list[Config]:
    """The lm-eval configurations of a task; several where it measures in several ways.

    `separate` is said of a model that reads prompt and reply apart.
    """
    configs = dialogue(task, scorer) if task.measure == "dialogue" else MEASURES[task.measure](task)
    made = []
    own_docs = all("make_doc" in config for _, config in configs)
    usual = (
        [] if own_docs else [{**make_doc(row, task, tokenizer, separate=separate), **right(task, row)} for row in rows]
    )
    for suffix, config in configs:
        own = config.pop("make_doc", None)
        docs = [own(row, renderer(tokenizer)) for row in rows] if own else usual
        made.append({**config, **source(docs), "task": f"{task.name}{suffix}"})
    return made


def right(task: Task, row: Row) -> Doc:
    """The right answers to a row, where its task compares with them."""
    return {"right": right_answers(task, row)} if task.measure in {"extract", "extractive"} else {}


def source(docs: Sequence[Doc]) -> Config:
    """Where lm-eval takes the items from: this list."""
    return {
        "custom_dataset": lambda **_: {SPLIT: Dataset.from_list(list(docs))},
        "test_split": SPLIT,
        "num_fewshot": 0,
        "metadata": {"version": VERSION},
    }


def generation_of(task: Task) -> Config:
    """Greedy generation of a reply."""
    return {
        "output_type": "generate_until",
        "doc_to_text": lambda doc: doc["prompt"],
        "doc_to_target": lambda doc: doc["reply"],
        "generation_kwargs": generation_settings(task),
    }


def extract(task: Task) -> Parts:
    """Compare what `pattern` finds in the reply with the right answer. Metric: exact_match."""
    pattern = re.compile(task.pattern)

    def process(doc: Doc, results: Sequence[str]) -> dict[str, float]:
        found = pattern.search(results[0])
        return {"exact_match": float(found is not None and found.group(1) in doc["right"])}

    target = {"doc_to_target": lambda doc: doc["right"][0]}
    return [("", {**generation_of(task), **target, "process_results": process, "metric_list": metrics("exact_match")})]


def extractive(task: Task) -> Parts:
    """Compare the reply's words with the right answer's, as SQuAD does. Metrics: exact_match, f1."""

    def process(doc: Doc, results: Sequence[str]) -> dict[str, float]:
        found = doc["right"], results[0]
        return {"exact_match": text.squad_exact(*found), "f1": text.token_f1(*found)}

    return [("", {**generation_of(task), "process_results": process, "metric_list": metrics("exact_match", "f1")})]


def generation(task: Task) -> Parts:
    """Compare the reply with the reference. Metrics: rouge_1, rouge_2, rouge_l, bleu, chrf, corpus_bleu.

    All but the last are means of the items' own values, so that they pair; `corpus_bleu` counts n-grams over
    all items, as publications report it, and has no value for an item.
    """
    kinds = ("rouge1", "rouge2", "rougeL")
    names = ("rouge_1", "rouge_2", "rouge_l")

    def process(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
        pair = doc["reply"], results[0]
        found = text.rouge(kinds, *pair)
        rouges = {name: found[kind] for name, kind in zip(names, kinds, strict=True)}
        return {**rouges, "bleu": text.sentence_bleu(*pair), "chrf": text.sentence_chrf(*pair), "corpus_bleu": pair}

    whole = {"metric": "corpus_bleu", "aggregation": "bleu", "higher_is_better": True}
    listed = [*metrics(*names, "bleu", "chrf"), whole]
    return [("", {**generation_of(task), "process_results": process, "metric_list": listed})]


def rouge(task: Task) -> Parts:
    """ROUGE-L F1 (Lin, 2004) of the reply, and the perplexity per token of the reference reply."""

    def process(doc: Doc, results: Sequence[str]) -> dict[str, float]:
        return {"rouge_l": text.rouge(("rougeL",), doc["reply"], results[0])["rougeL"]}

    generated = {**generation_of(task), "process_results": process, "metric_list": metrics("rouge_l")}
    return [("", generated), *((".likelihood", config) for _, config in likelihood(task))]


def likelihood(_task: Task) -> Parts:
    """The perplexity per token of the reference reply; an item's value is its mean negative log-likelihood."""

    def process(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
        return {"perplexity": (results[0][0], doc["reply_tokens"])}

    config: Config = {
        "output_type": "loglikelihood",
        "doc_to_text": lambda doc: doc["prompt"],
        "doc_to_target": lambda doc: doc["delimiter"] + doc["reply"],
        "process_results": process,
        "metric_list": [{"metric": "perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
    }
    return [("", config)]


def multiple_choice(_task: Task) -> Parts:
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


def perplexity(_task: Task) -> Parts:
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


MEASURES: dict[str, Callable[[Task], Parts]] = {
    "extract": extract,
    "extractive": extractive,
    "generation": generation,
    "rouge": rouge,
    "likelihood": likelihood,
    "multiple_choice": multiple_choice,
    "perplexity": perplexity,
    "adversarial": adversarial,
    "canary": canary,
}
"""Those that need nothing but the model's own answers; `dialogue` has others judge them."""
