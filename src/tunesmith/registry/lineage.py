"""How a model came to be: the runs that trained it, back to its base."""

import contextlib
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tunesmith.errors import RegistryError
from tunesmith.registry import versions
from tunesmith.tracking import runs, store
from tunesmith.tracking.runs import EXTENDS, TAG

FROM_EITHER = ("method", "data_sha256", "parent_sha256", "adapter_sha256")
"""What the run of a training or the sweep that it is part of says."""


@dataclass(frozen=True)
class Training:
    """One training of a lineage: its method, the run that kept its adapter, the sweep that run is part of, digests."""

    method: str
    run: str
    sweep: str
    data_sha256: str
    parent_sha256: str
    """Of the adapter that it went on from; empty where it began with the bare base."""
    adapter_sha256: str


@dataclass(frozen=True)
class Lineage:
    """The trainings that made a version, the first one first, and the base that they began with."""

    version: str
    base: str = ""
    base_sha256: str = ""
    trainings: tuple[Training, ...] = ()
    lost: str = ""
    """Why some trainings are not known here; empty when all are."""


def lineage(name: str, number: str) -> Lineage:
    """The lineage of a registered version, as far as its runs are in this store."""
    try:
        version = versions.get(name, number)
    except RegistryError as error:
        return Lineage(number, lost=str(error).removeprefix(f"{name}: version {number} "))
    try:
        found = trainings(chain(version.run_id))
    except MlflowException:
        found = ()
    lost = "" if found and not found[0].parent_sha256 else "what was before is not in this store"
    return Lineage(number, version.tag("base"), version.tag("base_sha256"), found, lost)


def chain(run_id: str) -> list[dict[str, Any]]:
    """How a model came to be, the first training first: each run and those it is part of, outermost first.

    A training that went on from another's adapter comes after it. Of each run: name, kind, method, link, seconds,
    machine, the digests of its data, its adapter and the adapter it went on from, and whether it is the `outermost`
    of its training. It begins later where a run is not there, as after a copy to another registry; without the
    first one asked for, `MlflowException` is raised.
    """
    stages: list[dict[str, Any]] = []
    current: str | None = run_id
    while current:
        try:
            run = store.client().get_run(current)
        except MlflowException:
            if not stages:
                raise
            break
        tags = run.data.tags
        stages.insert(
            0,
            {
                "id": current,
                "name": run.info.run_name,
                "kind": tags.get(f"{TAG}kind", "run"),
                "method": tags.get(f"{TAG}method", ""),
                "link": run_link(current),
                "seconds": _seconds(run),
                "commit": tags.get(f"{TAG}git_commit", ""),
                "machine": tags.get(f"{TAG}machine", ""),
                "placement": tags.get(f"{TAG}placement", ""),
                "threads": tags.get(f"{TAG}threads", ""),
                "data_sha256": tags.get(f"{TAG}data_sha256", ""),
                "parent_sha256": tags.get(f"{TAG}parent_sha256", ""),
                "adapter_sha256": tags.get(f"{TAG}adapter_sha256", ""),
                "outermost": "mlflow.parentRunId" not in tags,
            },
        )
        current = tags.get("mlflow.parentRunId") or tags.get(f"{TAG}parent_run")
    return stages


def _seconds(run: Run) -> float:
    """How long a run has taken; a sweep that adds trials to another, with that one's time if it is still there."""
    ended = run.info.end_time or datetime.datetime.now(datetime.UTC).timestamp() * 1000
    seconds = float(ended - run.info.start_time) / 1000
    extended = run.data.tags.get(f"{TAG}{EXTENDS}")
    with contextlib.suppress(MlflowException):
        seconds += _seconds(store.client().get_run(extended)) if extended else 0.0
    return seconds


def outermost(stages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One run for each training of a chain: the sweep, or the run itself."""
    return [stage for stage in stages if stage["outermost"]]


def trainings(stages: Sequence[dict[str, Any]]) -> tuple[Training, ...]:
    """The runs of a chain put together by training: what a run lacks, the sweep that it is part of may say."""
    groups: list[list[dict[str, Any]]] = []
    for stage in stages:
        if stage["outermost"] or not groups:
            groups.append([])
        groups[-1].append(stage)
    found = []
    for group in groups:
        said = {key: next((s[key] for s in reversed(group) if s[key]), "") for key in FROM_EITHER}
        said["method"] = said["method"] or group[-1]["kind"]
        found.append(Training(run=group[-1]["id"], sweep=group[0]["id"] if len(group) > 1 else "", **said))
    return tuple(found)


def run_link(run_id: str) -> str:
    """The place of a run in the MLflow UI, relative to it."""
    return f"#/experiments/{runs.attach(run_id).experiment_id}/runs/{run_id}"
