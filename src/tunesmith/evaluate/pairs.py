"""How a reward model ranks preference pairs, as scores like those of tasks: the task `pairs`."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.digest import digest_of, digest_rows
from tunesmith.records import Row, Scores
from tunesmith.stats.paired import paired_difference

TASK = "pairs"
ONE_SIDED = 0.975


def pair_scores(rows: Sequence[Row], margins: Sequence[float], *, split: str, settings: Mapping[str, Any]) -> Scores:
    """Scores from the margin of each pair, its chosen reply's reward less the rejected one's.

    `accuracy` is the share of positive margins; `accuracy_low` and `accuracy_high` are its 95% interval, groups
    resampled.
    """
    items = {
        row["id"]: {"accuracy": float(margin > 0), "margin": margin} for row, margin in zip(rows, margins, strict=True)
    }
    groups = {row["id"]: row["group"] for row in rows}
    right = {name: values["accuracy"] for name, values in items.items()}
    share = paired_difference(right, dict.fromkeys(right, 0.0), groups, confidence=ONE_SIDED)
    metrics = {
        "accuracy": share.mean,
        "accuracy_low": share.low,
        "accuracy_high": share.high,
        "margin": statistics.fmean(margins),
    }
    judged = {**settings, "pairs": digest_rows(rows)}
    return Scores(
        metrics={f"{split}/{TASK}/{name}": value for name, value in metrics.items()},
        items={TASK: items},
        groups=groups,
        digest=digest_of(judged),
        lower_is_better=(),
        settings=judged,
    )
