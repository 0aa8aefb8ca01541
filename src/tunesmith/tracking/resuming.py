"""Runs that go on after an interruption: a sweep's, its children's, and what `mlflow run` opened meanwhile."""

import os
from collections.abc import Iterator, Mapping

from mlflow import entities
from mlflow.entities import RunTag

from tunesmith.tracking import store
from tunesmith.tracking.runs import TAG, Run, attach, identity


def take_up(run_id: str) -> Run:
    """A training's run, to go on with: RUNNING under this process, what it logged step by step kept as it is."""
    run = attach(run_id)
    client = store.client()
    client.update_run(run_id, status="RUNNING")
    data = client.get_run(run_id).data
    kind = data.tags.get(f"{TAG}kind", "")
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in identity(kind).items()])
    if f"{TAG}reason" in data.tags:
        client.delete_tag(run_id, f"{TAG}reason")  # why it had ended
    for name in data.metrics:
        run._logged[name] = {point.step for point in client.get_metric_history(run_id, name)} - {0}
    return run


def reopen(run: Run, ends: Mapping[str, tuple[str, str]]) -> None:
    """Set an interrupted run, and those of its children that died with it, right again.

    The run is RUNNING under this process. `ends` has status and reason, by run, of what had come to its end before
    its run could say so; other children left RUNNING become KILLED.
    """
    client = store.client()
    client.update_run(run.id, status="RUNNING")
    kind = client.get_run(run.id).data.tags.get(f"{TAG}kind", "")
    client.log_batch(run.id, tags=[RunTag(k, v) for k, v in identity(kind).items()])
    for child in children(run):
        now = child.info.status
        otherwise = ("KILLED", "its sweep was interrupted") if now == "RUNNING" else (now, "")
        status, reason = ends.get(child.info.run_id, otherwise)
        if status != now:
            Run(child.info.run_id, run.experiment_id).finish(status, reason=reason)


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
