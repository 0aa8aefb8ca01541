"""What a tuned model lost, or gained, of what its base knew. Pure."""

from collections.abc import Collection

from tunesmith.records import Scores


def forgetting(tasks: Collection[str], base: Scores, scores: Scores) -> dict[str, float]:
    """The change to the base in every metric of `tasks`, as `forgetting/SPLIT/TASK/METRIC`."""
    changes = {}
    for name, value in scores.metrics.items():
        if name.split("/")[1] in tasks and name in base.metrics:
            changes[f"forgetting/{name}"] = value - base.metrics[name]
    return changes
