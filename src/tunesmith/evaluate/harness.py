"""lm-eval on a live model: no reload, no copy, the adapter that is attached is the one scored."""

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from lm_eval import evaluate
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.config.task import Task
from tunesmith.data.digest import digest_of, digest_rows
from tunesmith.evaluate.live import LiveModel
from tunesmith.evaluate.measures import VERSION, configure
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
) -> Scores:
    """Score a model on the items of each task; metrics are named `split/task/metric`."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    live = LiveModel(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, add_bos_token=False, backend="causal"
    )
    configs = [config for name, task in tasks.items() for config in configure(task, items[name], tokenizer)]
    # not simple_evaluate: it asks a dozen programs of this machine for their versions after every scoring
    made = [config.pop("task_class", ConfigurableTask)(config=config) for config in configs]
    loaded = TaskManager(include_defaults=False).load(made)
    results = evaluate(lm=live, task_dict=loaded, bootstrap_iters=0, log_samples=True)
    assert results is not None  # noqa: S101 - only ranks other than 0 get None
    groups = {row["id"]: row["group"] for rows in items.values() for row in rows}
    settings = settings_of(tasks, items, tokenizer, batch_size)
    return collect(results, split=split, groups=groups, settings=settings)


def collect(
    results: Mapping[str, Any], *, split: str, groups: Mapping[str, str], settings: Mapping[str, Any]
) -> Scores:
    """lm-eval's results as a record: means, and each item's values by row id."""
    metrics: dict[str, float] = {}
    items: dict[str, dict[str, dict[str, float]]] = {}
    samples, lower = [], []
    for name, logged in results["samples"].items():
        task = name.partition(".")[0]
        for key, value in results["results"][name].items():
            metric, _, rest = key.partition(",")
            if rest == "none" and not metric.endswith("_stderr"):
                metrics[f"{split}/{task}/{metric}"] = float(value)
        directions = results["higher_is_better"][name].items()
        lower += [f"{task}/{metric}" for metric, higher in directions if higher is False]
        for sample in logged:
            found = {metric: per_item(sample[metric]) for metric in sample["metrics"]}
            values = {metric: value for metric, value in found.items() if value is not None}
            items.setdefault(task, {}).setdefault(sample["doc"]["id"], {}).update(values)
            kept = {field: sample[field] for field in KEPT_FIELDS}
            samples.append({"task": name, "id": sample["doc"]["id"], **values, **kept})
    return Scores(
        metrics=metrics,
        items=items,
        groups=groups,
        digest=digest_of(settings),
        samples=tuple(samples),
        lower_is_better=tuple(lower),
        settings={**settings, "chat_template": digest_of(settings["chat_template"])},
    )


def per_item(value: Any) -> float | None:
    """An item's value: a (log-likelihood, tokens) pair becomes its negative mean; None for what is no number."""
    if isinstance(value, tuple | list):
        pair = len(value) == 2 and isinstance(value[0], float)
        return -value[0] / max(1, value[1]) if pair else None
    return float(value)


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
