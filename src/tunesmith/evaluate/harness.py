"""lm-eval on a live model: no reload, no copy, the adapter that is attached is the one scored."""

import logging
from collections.abc import Container, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from lm_eval import evaluate
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.config.task import HarnessTask, Task
from tunesmith.data.digest import digest_of, digest_rows
from tunesmith.evaluate.dialogue import Likelihoods, Scorer, passages_of
from tunesmith.evaluate.live import Base, LiveModel
from tunesmith.evaluate.measures import VERSION, configure
from tunesmith.evaluate.stock import harness_tasks, metric_name, pooled
from tunesmith.models.architecture import architecture_of
from tunesmith.models.packed import prepacked
from tunesmith.records import Row, Scores

KEPT_FIELDS = ("prompt_hash", "target", "filtered_resps")


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Mapping[str, Task],
    items: Mapping[str, Sequence[Row]],
    *,
    split: str,
    batch_size: int,
    live: LiveModel | None = None,
) -> Scores:
    """Score a model on the items of each task; metrics are named `split/task/metric`.

    A `live` model of one's own keeps its answers from one scoring to the next, and may know the base that the replies
    of a dialogue are measured by; without one the model itself is asked.
    """
    live = live or live_model(model, tokenizer, batch_size=batch_size)
    scorer = scorer_of(live)
    stock, chosen = harness_tasks(tasks, items)
    own = {name: task for name, task in tasks.items() if not isinstance(task, HarnessTask)}
    separate = architecture_of(model.config).separate
    configs = [
        config
        for name, task in own.items()
        for config in configure(task, items[name], tokenizer, scorer, separate=separate)
    ]
    # not simple_evaluate: it asks a dozen programs of this machine for their versions after every scoring
    made = [config.pop("task_class", ConfigurableTask)(config=config) for config in configs]
    loaded = TaskManager(include_defaults=False).load(made)
    loaded["tasks"] |= stock
    with prepacked(model, model.dtype):
        results = evaluate(lm=live, task_dict=loaded, samples=chosen, bootstrap_iters=0, log_samples=True)
    assert results is not None  # noqa: S101 - only ranks other than 0 get None
    groups = {row["id"]: row["group"] for rows in items.values() for row in rows}
    settings = {**settings_of(tasks, items, tokenizer, batch_size), **scorer_settings(tasks, scorer)}
    return collect(results, split=split, groups=groups, settings=settings, stock=stock)


def live_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_size: int, base: Base | None = None
) -> LiveModel:
    """A loaded model as lm-eval asks it; `base` is what it was tuned from."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every model that was loaded before
    return LiveModel(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=batch_size,
        add_bos_token=False,
        backend=architecture_of(model.config).backend,
        tuned_from=base,
    )


def scorer_of(live: LiveModel) -> Scorer:
    """The likelihoods of the base of a live model: of that model without its adapter, or of another network."""
    base = live.tuned_from
    sha256 = base.sha256 if base else ""
    if isinstance(live.model, PeftModel):
        return Scorer(bare(live, live.model), sha256)
    if base is None or base.network is live.model:
        return Scorer(live.mean_logprobs, sha256)
    beside = live_model(base.network, live.tokenizer, batch_size=int(live.batch_size))
    return Scorer(beside.mean_logprobs, sha256)


def bare(live: LiveModel, model: PeftModel) -> Likelihoods:
    """A live model's likelihoods while its adapter is switched off."""

    def likelihoods(pairs: Sequence[tuple[str, str]]) -> list[float]:
        with model.disable_adapter():
            return live.mean_logprobs(pairs)

    return likelihoods


def scorer_settings(tasks: Mapping[str, Task], scorer: Scorer) -> dict[str, Any]:
    """What decides the scores of dialogues besides the task: whose likelihoods they are, and what the passages say."""
    own = {name: task for name, task in tasks.items() if task.measure == "dialogue"}
    known = {name: digest_of(list(passages_of(task))) for name, task in own.items()}
    return {"scorer": scorer.sha256, "passages": known} if own else {}


def collect(
    results: Mapping[str, Any],
    *,
    split: str,
    groups: Mapping[str, str],
    settings: Mapping[str, Any],
    stock: Container[str] = (),
) -> Scores:
    """lm-eval's results as a record: means, and each item's values by row id.

    The items of the tasks in `stock`, lm-eval's own, are known by their index.
    """
    metrics: dict[str, list[tuple[float, int]]] = {}
    items: dict[str, dict[str, dict[str, float]]] = {}
    samples, lower = [], []
    for name, logged in results["samples"].items():
        task, _, part = name.partition(".")
        for key, value in results["results"][name].items():
            metric, comma, _ = key.partition(",")
            if comma and not metric.endswith("_stderr"):
                count = len({sample["doc_id"] for sample in logged})
                metrics.setdefault(f"{split}/{task}/{metric_name(key)}", []).append((float(value), count))
                if results["higher_is_better"][name].get(metric) is False:
                    lower.append(f"{task}/{metric_name(key)}")
        for sample in logged:
            item = f"{part}-{sample['doc_id']}" if name in stock else sample["doc"]["id"]
            values = item_values(sample)
            items.setdefault(task, {}).setdefault(item, {}).update(values)
            kept = {field: sample[field] for field in KEPT_FIELDS}
            samples.append({"task": name, "id": item, **values, **kept})
    return Scores(
        metrics={name: pooled(parts) for name, parts in metrics.items()},
        items=items,
        groups=groups,
        digest=digest_of(settings),
        samples=tuple(samples),
        lower_is_better=tuple(dict.fromkeys(lower)),
        settings={**settings, "chat_template": digest_of(settings["chat_template"])},
    )


def item_values(sample: Mapping[str, Any]) -> dict[str, float]:
    """The value of each metric that an item has one of; the rates of its classes (`METRIC.CLASS`) are left out."""
    keys = {metric: metric_name(f"{metric},{sample['filter']}") for metric in sample["metrics"] if "." not in metric}
    found = {keys[metric]: per_item(sample[metric]) for metric in keys}
    return {metric: value for metric, value in found.items() if value is not None}


def per_item(value: Any) -> float | None:
    """An item's value: a (log-likelihood, tokens) pair becomes its negative mean; None for what is no number."""
    if isinstance(value, tuple | list):
        pair = len(value) == 2 and isinstance(value[0], float)
        return -value[0] / max(1, value[1]) if pair else None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def settings_of(
    tasks: Mapping[str, Task],
    items: Mapping[str, Sequence[Row]],
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
) -> dict[str, Any]:
    """Equal only for scores that may be compared: tasks, items in their order, harness, template, batch size."""
    return {
        "tasks": {name: {**task.digest_tree(), "version": VERSION} for name, task in tasks.items()},
        "items": {name: digest_rows(rows) for name, rows in items.items()},
        "lm_eval": version("lm-eval"),
        "chat_template": tokenizer.chat_template,
        "batch_size": batch_size,
    }
