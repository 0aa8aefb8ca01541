"""Several processes that train together: the same training as one process does."""

import json
import os
import subprocess
import sys

import pytest
from mlflow import MlflowClient
from tests.conftest import environment

from tunesmith.config import Experiment, overrides
from tunesmith.sweep.protocol import Job
from tunesmith.sweep.workbench import Workbench
from tunesmith.train.recorder import Unheard

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")

CHANGES = {
    "method.epochs": 2,
    "data.train_rows": 30,
    "evaluation.tasks": ["quiz"],
    "evaluation.primary": "tune/quiz/acc",
}
COMMAND = (sys.executable, "-m", "tunesmith", "sft", "experiments/smoke.yaml", "--nproc", "2", "--json")


def started(project, changes):
    """Two processes that train together, their output in pipes."""
    sets = [word for name, value in changes.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*COMMAND, *sets], cwd=project, env=environment(), **pipes)


def losses(client, run_id, name):
    return [point.value for point in client.get_metric_history(run_id, name)]


def test_two_processes_train_as_one_does(project, monkeypatch):
    """30 rows in batches of 4 leave 2 for an epoch's last step; rows, steps and losses are those of one process."""
    done = started(project, CHANGES)
    out, err = done.communicate(timeout=600)
    assert done.returncode == 0, err[-3000:]
    value = json.loads(out)
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    (run,) = client.search_runs([item.experiment_id for item in client.search_experiments()])
    assert (run.info.run_id, run.info.status) == (value["run_id"], "FINISHED")
    assert run.data.tags["tunesmith.processes"] == "2"
    assert run.data.tags["tunesmith.command"].endswith("-P nproc=2")
    assert err.count("of the training tokens count in the loss") == 1
    monkeypatch.chdir(project)
    experiment = overrides.apply(Experiment.from_yaml("experiments/smoke.yaml"), CHANGES)
    job = Job(experiment, "tune", str(project / "alone"), fractions=(0.25, 0.5, 0.75, 1.0))
    alone = Workbench(experiment).execute(job, Unheard()).trained
    for name in ("train/loss", "train/grad_norm", "tune/loss"):
        points = [point for _, point in alone.curves[name]]
        assert len(points) == (4 if name == "tune/loss" else 16)
        assert losses(client, value["run_id"], name) == pytest.approx(points, rel=2e-5)
    assert value["train/tokens"] == alone.metrics["train/tokens"]
