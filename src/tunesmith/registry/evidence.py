"""The scores on which a version is judged: its own and its base's on the same holdout items."""

import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlflow.exceptions import MlflowException

from tunesmith import manifest
from tunesmith.data.digest import digest_of
from tunesmith.errors import RegistryError
from tunesmith.records import Scores
from tunesmith.registry.verify import WEIGHTS, read_json
from tunesmith.tracking import store
from tunesmith.tracking.runs import TAG, Run, attach

ARTIFACT = "evaluation/holdout.json"


@dataclass(frozen=True)
class Record:
    """A model's and its base's holdout scores, and the digests of the adapter and base that were scored."""

    candidate: Scores
    base: Scores
    adapter_sha256: str
    base_sha256: str

    @property
    def items(self) -> str:
        """Identifies the holdout's items, whatever they were scored with."""
        return items_digest(self.candidate.items)


def save(run: Run, *, candidate: Scores, base: Scores) -> None:
    """Keep the holdout scores on the run that trained the candidate."""
    scored = {"adapter_sha256": run.tag("adapter_sha256"), "base_sha256": run.tag("base_sha256")}
    run.json({"candidate": _tree(candidate), "base": _tree(base), **scored}, ARTIFACT)


def load(run_id: str) -> Record:
    """The holdout scores of a run's model and of its base; raises `RegistryError` when it was not scored."""
    try:
        stored = attach(run_id).read_json(ARTIFACT)
        candidate, base = Scores(**stored["candidate"]), Scores(**stored["base"])
        return Record(candidate, base, stored["adapter_sha256"], stored["base_sha256"])
    except (MlflowException, OSError):
        raise RegistryError(f"run {run_id}: has not been scored on the holdout; run a sweep, which does it") from None
    except (KeyError, TypeError, ValueError):
        raise RegistryError(f"run {run_id}: its {ARTIFACT} is damaged; score it again") from None


def require_finished(run_id: str) -> None:
    """Refuse a run that failed, was stopped, or has not ended."""
    run = store.client().get_run(attach(run_id).id)
    status = run.data.tags.get(f"{TAG}status") or run.info.status
    if status == "RUNNING":
        raise RegistryError(f"run {run_id}: has not finished; wait for it, or see `tunesmith doctor`")
    if status != "FINISHED":
        raise RegistryError(f"run {run_id}: ended as {status}; only a finished run's model can be promoted")


def require_fresh(record: Record, package: pathlib.Path) -> None:
    """Refuse scores of other weights, another base or other items than the package says."""
    base, data = read_json(package, "base.json"), read_json(package, "data.json")
    pairs = (
        ("adapter", record.adapter_sha256, manifest.sha256_file(package / WEIGHTS)),
        ("base", record.base_sha256, base["sha256"]),
        ("holdout scores", record.candidate.digest, data.get("scores_digest")),
    )
    for what, scored, packaged in pairs:
        if scored != packaged:
            raise RegistryError(
                f"{ARTIFACT}: is stale: the {what} it was made with has the digest {scored[:12]}, "
                f"the package's has {str(packaged)[:12]}; score the model again"
            )


def items_digest(items: Mapping[str, Iterable[str]]) -> str:
    """One digest for the ids of each task's items."""
    return digest_of({task: sorted(ids) for task, ids in items.items()})


def metrics(run_id: str) -> dict[str, float]:
    """All metrics of a run, their last values."""
    return dict(store.client().get_run(run_id).data.metrics)


def _tree(scores: Scores) -> dict[str, Any]:
    return {**asdict(scores), "samples": []}
