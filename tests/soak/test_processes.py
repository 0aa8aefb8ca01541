"""Several processes that train together end together, whichever of them is told or made to end."""

import os
import pathlib
import signal
import sys

import pytest
from mlflow import MlflowClient
from tests.integration.test_processes import CHANGES, started

from tunesmith.tracking.runs import process_start


def children(process: int) -> list[int]:
    return [int(pid) for pid in pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("which", "sent", "code", "status", "message"),
    [
        ("launcher", signal.SIGTERM, 143, "KILLED", "interrupted"),
        (
            "process 1",
            signal.SIGKILL,
            1,
            "FAILED",
            "error: process 1 of 2 was ended by SIGKILL; its last words are in ",
        ),
    ],
)
def test_all_end_together_and_say_so_once(project, which, sent, code, status, message):
    running = started(project, {**CHANGES, "method.epochs": 12})
    while "25%" not in (line := running.stderr.readline()):
        assert line, running.wait()
    pids = children(running.pid)
    assert len(pids) == 2
    os.kill(running.pid if which == "launcher" else max(pids), sent)
    _, err = running.communicate(timeout=120)
    assert running.returncode == code, err
    lines = [line for line in err.splitlines() if line.strip() and "tune/loss" not in line]
    assert len(lines) == 1, err
    assert lines[0].startswith(message)
    assert not any(process_start(pid) for pid in pids)
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    (run,) = client.search_runs([item.experiment_id for item in client.search_experiments()])
    assert run.info.status == status
