"""What several files of integration tests read: a finished main job."""

import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from tests import sweeps
from tests.conftest import ROOT, copy_project

from tunesmith.config import Experiment
from tunesmith.models.bundled import cache_folder
from tunesmith.models.device import place
from tunesmith.models.references import resolve
from tunesmith.sweep.workbench import CALIBRATIONS, calibration_key

TOGETHER = {"limits": {"fuse": 1024, "most": 4096}, "ratios": {"16": 0.5}}


@pytest.fixture(scope="session", autouse=True)
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache in which the tiny model's trials are known to gain by sharing passes, on any machine.

    Measured, this depends on the processor and its load, and with it which trials go on before others have come.
    """
    model = Experiment.from_yaml(ROOT / "experiments/smoke.yaml").model
    placement, base, real = place(model), resolve(model.base).sha256, cache_folder()
    folder = tmp_path_factory.mktemp("cache")
    for name in ("models", "reference"):
        (real / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(real / name)
    if (real / "bfloat16.json").is_file():
        shutil.copy(real / "bfloat16.json", folder)
    keys = [calibration_key(placement, threads, base) for threads in range(1, len(os.sched_getaffinity(0)) + 1)]
    (folder / CALIBRATIONS).write_text(json.dumps(dict.fromkeys(keys, TOGETHER)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(folder))
        yield


@pytest.fixture(autouse=True)
def no_sweep_is_left() -> Iterator[None]:
    """A sweep ends with its test, so that one that failed does not slow the next ones down."""
    yield
    sweeps.end_all()


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, empty_store: pathlib.Path
) -> tuple[pathlib.Path, subprocess.CompletedProcess[str]]:
    """A project in which `main` has run once, with one worker: how many trials two finish depends on their pace."""
    folder = copy_project(tmp_path_factory.mktemp("main") / "project", empty_store)
    done = sweeps.mlflow_run(folder, "main", *sweeps.ENTRY_POINT, "-P", "trials=4", TUNESMITH_CPU_WORKERS="1")
    assert done.returncode == 0, done.stderr[-4000:]
    return folder, done
