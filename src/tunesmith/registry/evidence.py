"""The scores on which a version is judged: its own and its base's on the same holdout items."""

from dataclasses import asdict
from typing import Any

from tunesmith.records import Scores
from tunesmith.tracking import store
from tunesmith.tracking.runs import Run, attach

ARTIFACT = "evaluation/holdout.json"


def save(run: Run, *, candidate: Scores, base: Scores) -> None:
    """Keep the holdout scores on the run that trained the candidate."""
    run.json({"candidate": _tree(candidate), "base": _tree(base)}, ARTIFACT)


def load(run_id: str) -> tuple[Scores, Scores]:
    """The holdout scores of a run's model and of its base."""
    stored = attach(run_id).read_json(ARTIFACT)
    return Scores(**stored["candidate"]), Scores(**stored["base"])


def metrics(run_id: str) -> dict[str, float]:
    """All metrics of a run, their last values."""
    return dict(store.client().get_run(run_id).data.metrics)


def _tree(scores: Scores) -> dict[str, Any]:
    return {**asdict(scores), "samples": []}
