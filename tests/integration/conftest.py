"""What several files of integration tests read: a finished main job."""

import pathlib
import subprocess

import pytest
from tests import sweeps
from tests.conftest import copy_project


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, empty_store: pathlib.Path
) -> tuple[pathlib.Path, subprocess.CompletedProcess[str]]:
    """A project in which `main` has run once, with one worker: how many trials two finish depends on their pace."""
    folder = copy_project(tmp_path_factory.mktemp("main") / "project", empty_store)
    done = sweeps.mlflow_run(folder, "main", *sweeps.ENTRY_POINT, "-P", "trials=4", TUNESMITH_CPU_WORKERS="1")
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, done
