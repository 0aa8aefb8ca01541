"""The tasks of lm-eval itself within a scoring: which of their items are asked, and what their results are called."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.config.task import HarnessTask, Task
from tunesmith.data.stock import load_task
from tunesmith.records import Row

SHOTS_SEED = 1234
"""lm-eval's own for drawing a task's examples."""


def harness_tasks(
    tasks: Mapping[str, Task], items: Mapping[str, Sequence[Row]]
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """lm-eval's task objects by the name they have here, and the indices of the items that each is asked.

    Examples are drawn anew from the same seed, so that an item is shown after the same ones in every scoring of
    the same items.
    """
    loaded, chosen = {}, {}
    for name, task in tasks.items():
        if isinstance(task, HarnessTask):
            loaded[name] = load_task(task)
            loaded[name].set_fewshot_seed(SHOTS_SEED)
            chosen[name] = sorted(row["index"] for row in items[name])
    return loaded, chosen


def metric_name(key: str) -> str:
    """lm-eval's `METRIC,FILTER` as the name of a metric: `METRIC`, or `METRIC.FILTER` where a filter has a name."""
    metric, _, kind = key.partition(",")
    return metric if kind == "none" else f"{metric}.{kind}"
