"""Scores on runs: written with every item's result, and found again by what was scored."""

import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlflow.exceptions import MlflowException

from tunesmith import manifest
from tunesmith.errors import TrackingError
from tunesmith.records import Scores
from tunesmith.stats.paired import paired_difference
from tunesmith.tracking import store
from tunesmith.tracking.runs import TAG, Run, attach

ARTIFACT = "evaluation/samples.json"
BASE = "none"
"""The tag `adapter_sha256` of a run on which the base itself was scored."""
ONE_SIDED = 0.975
NEWEST_FIRST = ["attributes.start_time DESC"]


@dataclass(frozen=True)
class ScoredRun:
    """A run that holds scores, as far as its tags tell."""

    run_id: str
    digest: str
    split: str
    items: int


def log_scores(run: Run, scores: Scores) -> None:
    """Log means as metrics, and every item's result as an artifact; the tag `adapter_sha256` says whose they are."""
    run.metrics(dict(scores.metrics))
    split = next(iter(scores.metrics), "").partition("/")[0]
    items = sum(map(len, scores.items.values()))
    run.tags({"scores_digest": scores.digest, "scores_split": split, "scores_items": items})
    run.json(asdict(scores), ARTIFACT)


def log_scores_of(run: Run, scores: Scores, adapter: pathlib.Path | None) -> None:
    """Log scores on a run that trained nothing: of a saved adapter, or of the base."""
    sha256 = BASE if adapter is None else manifest.sha256_file(adapter / "adapter_model.safetensors")
    run.tags({"adapter_sha256": sha256})
    log_scores(run, scores)


def log_change(run: Run, before: Scores, after: Scores) -> list[str]:
    """Log what a training changed, so that a reward which was hacked shows beside what it cost.

    Metrics `before/...`, and of each score `change/...` with its 95% interval (`..._low`, `..._high`, groups
    resampled); returns the changes as lines of text.
    """
    run.metrics({f"before/{name}": value for name, value in before.metrics.items()})
    lines = []
    for task, items in after.items.items():
        for metric in next(iter(items.values())):
            mine, theirs = (
                {name: values[metric] for name, values in scores.items[task].items()} for scores in (after, before)
            )
            found = paired_difference(mine, theirs, after.groups, confidence=ONE_SIDED)
            name = f"change/{task}/{metric}"
            run.metrics({name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high})
            lines.append(f"{task}/{metric} {found.mean:+.3f}, 95% interval {found.low:+.3f} to {found.high:+.3f}")
    return lines


def scored_runs(adapter_sha256: str) -> list[ScoredRun]:
    """The runs with scores of the adapter with this SHA-256, or of `BASE`, newest first."""
    client = store.client()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"tags.`{TAG}adapter_sha256` = '{adapter_sha256}' and tags.`{TAG}scores_split` LIKE '%'"
    runs = client.search_runs(experiments, query, order_by=NEWEST_FIRST)
    return [_scored(run.info.run_id, run.data.tags) for run in runs]


def _scored(run_id: str, tags: Mapping[str, str]) -> ScoredRun:
    items = int(tags[f"{TAG}scores_items"])
    return ScoredRun(run_id, tags[f"{TAG}scores_digest"], tags[f"{TAG}scores_split"], items)


def read_scores(run_id: str) -> Scores:
    """The scores on a run; raises `TrackingError` when their artifact is gone or damaged."""
    try:
        return from_tree(attach(run_id).read_json(ARTIFACT))
    except (MlflowException, OSError):
        raise TrackingError(f"run {run_id}: its {ARTIFACT} was deleted; score the model again") from None
    except (KeyError, TypeError, ValueError):
        raise TrackingError(f"run {run_id}: its {ARTIFACT} is damaged; score the model again") from None


def from_tree(tree: Mapping[str, Any]) -> Scores:
    """Scores as they were before they became JSON; raises `TypeError` for anything else."""
    lower = tree.get("lower_is_better")
    lists = {"samples": tuple(tree["samples"]), "lower_is_better": None if lower is None else tuple(lower)}
    return Scores(**{**tree, **lists})
