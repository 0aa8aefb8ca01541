"""Runs that go on after an interruption: a sweep's, its children's, and what `mlflow run` opened meanwhile."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow import entities
from mlflow.entities import RunTag

from tunesmith.tracking import store
from tunesmith.tracking.runs import TAG, Run, attach, identity

REASON = f"{TAG}reason"


def take_up(run_id: str) -> Run:
    """A training's run, to go on with: RUNNING under this process, what it logged step by step kept as it is."""
    run = attach(run_id)
    for name in _run_again(run_id).metrics:
        run._logged[name] = {point.step for point in store.client().get_metric_history(run_id, name)} - {0}
    return run


def reopen(run: Run, ends: Mapping[str, tuple[str, str]]) -> None:
    """Set an interrupted run, and those of its children that died with it, right again.

    The run is RUNNING under this process. `ends` has status and reason, by run, of what had come to its end, as its run
    may not have learned; other children left RUNNING become KILLED.
    """
    _run_again(run.id)
    for child in children(run):
        now = (child.info.status, child.data.tags.get(REASON, ""))
        interrupted = ("KILLED", "its sweep was interrupted")
        end = ends.get(child.info.run_id, interrupted if child.info.status == "RUNNING" else now)
        if end != now:
            status, reason = end
            _forget_reason(child.info.run_id, child.data)
            Run(child.info.run_id, run.experiment_id).finish(status, reason=reason)


def _run_again(run_id: str) -> entities.RunData:
    """Let a run be RUNNING under this process; returns what it holds."""
    client = store.client()
    client.update_run(run_id, status="RUNNING")
    data = client.get_run(run_id).data
    kind = data.tags.get(f"{TAG}kind", "")
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in identity(kind).items()])
    _forget_reason(run_id, data)
    return data


def _forget_reason(run_id: str, data: entities.RunData) -> None:
    if REASON in data.tags:
        store.client().delete_tag(run_id, REASON)


@dataclass(frozen=True)
class Left:
    """A child run that an interrupted sweep has left, with its tags."""

    run_id: str
    tags: Mapping[str, str]

    def has(self, tags: Mapping[str, Any]) -> bool:
        """Whether it was created with these tags."""
        return all(self.tags.get(f"{TAG}{key}") == str(value) for key, value in tags.items())


def left_by(run: Run) -> dict[tuple[str, str], Left]:
    """The children of a run by kind and name."""
    found = [Left(child.info.run_id, child.data.tags) for child in children(run)]
    return {(left.tags.get(f"{TAG}kind", ""), left.tags["mlflow.runName"]): left for left in reversed(found)}


def children(run: Run) -> Iterator[entities.Run]:
    """The runs of which this one is the parent, newest first."""
    token: str | None = ""
    while token is not None:
        query = f"tags.`mlflow.parentRunId` = '{run.id}'"
        page = store.client().search_runs([run.experiment_id], query, page_token=token or None)
        yield from page
        token = page.token or None


def link_resumption(parent: Run) -> None:
    """Under `mlflow run`, let the new project run say which sweep it took up."""
    given = os.environ.pop("MLFLOW_RUN_ID", None)
    if given:
        attach(given).tags({"kind": "resumption", "resumes": parent.id})
