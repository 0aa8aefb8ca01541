"""The tasks of lm-eval itself within a scoring: which of their items are asked, and what their results are called."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.config.task import HarnessTask, Task
from tunesmith.data.stock import load_part
from tunesmith.records import Row

SHOTS_SEED = 1234
"""lm-eval's own for drawing a task's examples."""


def harness_tasks(
    tasks: Mapping[str, Task], items: Mapping[str, Sequence[Row]]
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """lm-eval's task objects as `TASK.PART`, and the indices of the items that each is asked.

    Those that are asked none are left out. Examples are drawn anew from the same seed, so that an item is shown after
    the same ones in every scoring of the same items.
    """
    loaded: dict[str, Any] = {}
    chosen: dict[str, list[int]] = {}
    for name, task in tasks.items():
        if not isinstance(task, HarnessTask):
            continue
        for part in task.parts:
            indices = sorted(row["index"] for row in items[name] if row["part"] == part.name)
            if indices:
                key = f"{name}.{part.name}"
                loaded[key], chosen[key] = load_part(task, part), indices
                loaded[key].set_fewshot_seed(SHOTS_SEED)
    return loaded, chosen


def pooled(parts: Sequence[tuple[float, int]]) -> float:
    """A metric over parts of a task, from its value and its number of items in each; lm-eval weighs groups so."""
    if len(parts) == 1:
        return parts[0][0]
    return sum(value * count for value, count in parts) / sum(count for _, count in parts)


def metric_name(key: str) -> str:
    """lm-eval's `METRIC,FILTER` as the name of a metric: `METRIC`, or `METRIC.FILTER` where a filter has a name."""
    metric, _, kind = key.partition(",")
    return metric if kind == "none" else f"{metric}.{kind}"
