"""The scores on which a version is judged: its own and its base's on the same holdout items."""

import pathlib
import re
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
from tunesmith.tracking.scores import from_tree

ARTIFACT = "evaluation/holdout.json"
LATER = re.compile(r"evaluation/holdout-[0-9a-f]+\.json")


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

    @property
    def sha256(self) -> str:
        """Identifies every value in the record."""
        return digest_of(_tree(self))


def save(run: Run, *, candidate: Scores, base: Scores) -> None:
    """Keep the holdout scores on the run that trained the candidate.

    Those that a version was registered with stay as they are; scores by other tasks or settings are kept beside them.
    """
    record = Record(candidate, base, run.tag("adapter_sha256"), run.tag("base_sha256"))
    if not store.client().search_model_versions(f"run_id = '{run.id}'"):
        _write(run, record, ARTIFACT)
    elif load(run.id).candidate.digest != candidate.digest:
        save_also(run, record)


def save_also(run: Run, record: Record) -> None:
    """Keep scores on other items or by other tasks beside those that a version was registered with."""
    _write(run, record, under(record.candidate.digest))


def under(digest: str) -> str:
    """Where later scores are kept."""
    return f"evaluation/holdout-{digest[:12]}.json"


def load(run_id: str) -> Record:
    """The holdout scores of a run's model and of its base; raises `RegistryError` when it was not scored."""
    record = _read(run_id, ARTIFACT)
    if record is None:
        raise RegistryError(f"run {run_id}: has not been scored on the holdout; run a sweep, which does it")
    return record


def load_under(run_id: str, digest: str) -> Record:
    """The scores of a run's model under a digest if there are any, else those it was registered with.

    Raises `RegistryError` when later scores are of other weights.
    """
    first = load(run_id)
    later = None if first.candidate.digest == digest else _read(run_id, under(digest))
    if later is None:
        return first
    if (later.adapter_sha256, later.base_sha256) != (first.adapter_sha256, first.base_sha256):
        raise RegistryError(f"run {run_id}: {under(digest)} holds scores of another model; score it again")
    return later


def every(run_id: str) -> list[Record]:
    """All holdout scores of a run's model, those it was registered with first."""
    listed = {file.path for file in store.client().list_artifacts(run_id, "evaluation")}
    names = [name for name in sorted(listed, key=len) if LATER.fullmatch(name) or name == ARTIFACT]
    return [record for name in names if (record := _read(run_id, name)) is not None]


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
                f"the package's has {str(packaged)[:12]}; score and register the model again"
            )
    if record.sha256 != data.get("evidence_sha256"):
        raise RegistryError(
            f"{ARTIFACT}: was changed after the model was registered: its values have the digest {record.sha256[:12]}, "
            f"the package names {str(data.get('evidence_sha256'))[:12]}; restore it, or score and register again"
        )


def items_digest(items: Mapping[str, Iterable[str]]) -> str:
    """One digest for the ids of each task's items."""
    return digest_of({task: sorted(ids) for task, ids in items.items()})


def metrics(run_id: str) -> dict[str, float]:
    """All metrics of a run, their last values."""
    return dict(store.client().get_run(run_id).data.metrics)


def _write(run: Run, record: Record, name: str) -> None:
    run.json(_tree(record), name)


def _read(run_id: str, name: str) -> Record | None:
    """The record in an artifact; None when there is no such artifact."""
    try:
        stored = attach(run_id).read_json(name)
        candidate, base = from_tree(stored["candidate"]), from_tree(stored["base"])
        return Record(candidate, base, stored["adapter_sha256"], stored["base_sha256"])
    except (MlflowException, OSError):
        return None
    except (KeyError, TypeError, ValueError):
        raise RegistryError(f"run {run_id}: its {name} is damaged; score it again") from None


def _tree(record: Record) -> dict[str, Any]:
    tree = asdict(record)
    for scores in (tree["candidate"], tree["base"]):
        scores["samples"] = []  # a person may read them; nothing is decided by them
    return tree
