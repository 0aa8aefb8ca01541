"""What could keep Tunesmith from working here, each with its remedy; and runs that died unnoticed."""

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tunesmith.errors import TunesmithError
from tunesmith.tracking import store
from tunesmith.tracking.runs import TAG, attach, process_start

OLDEST_PYTHON = (3, 11)
LEAST_FREE_GIB = 3.0  # the checkpoints of 16 trials of the demo take about 2.2


@dataclass(frozen=True)
class Diagnosis:
    """One check: how it stands, and what to do about it."""

    check: str
    severity: Literal["ok", "warning", "error"]
    state: str
    remedy: str = ""


def examine(*, reap: bool) -> list[Diagnosis]:
    """Run every check; with `reap`, also set the status of stale runs right."""
    return [*_python(), *_packages(), *_device(), *_environment_managers(), *_disk(), *_store(reap=reap)]


def _python() -> Iterator[Diagnosis]:
    fine = sys.version_info >= OLDEST_PYTHON
    remedy = "" if fine else "install Python 3.11 or newer"
    yield Diagnosis("python", "ok" if fine else "error", platform.python_version(), remedy)


def locked_versions() -> dict[str, str]:
    """The versions that requirements.lock pins, by distribution name."""
    versions = {}
    for name in ("requirements-core.lock", "requirements.lock"):
        path = store.project_root() / name
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            distribution, _, version = line.partition("==")
            if version:
                versions[distribution.strip()] = version.split()[0]
    return versions


def _packages() -> Iterator[Diagnosis]:
    wrong = []
    for name, version in locked_versions().items():
        try:
            installed = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            installed = "missing"
        if installed != version:
            wrong.append(f"{name} {installed}, not {version}")
    if wrong:
        state = f"{len(wrong)} differ from requirements.lock: {'; '.join(wrong[:3])}"
        yield Diagnosis("packages", "warning", state, "pip install --no-deps -r requirements.lock")
    else:
        yield Diagnosis("packages", "ok", "as in requirements.lock")


def _device() -> Iterator[Diagnosis]:
    from tunesmith.config.experiment import ModelConfig
    from tunesmith.models.device import place
    from tunesmith.train.launch import limit

    config = ModelConfig(base="any")
    placement = place(config)
    slow = placement.device == "cpu" and "no faster" in placement.reason
    remedy = "fine for the demo; models above 1B weights want a CUDA GPU" if slow else ""
    yield Diagnosis("device", "ok", f"{placement.describe()}, {os.cpu_count()} cores", remedy)
    most, what = limit(config)
    yield Diagnosis("processes", "ok", f"a single training takes --nproc up to {most} ({what})")


def _environment_managers() -> Iterator[Diagnosis]:
    """What `mlflow run` needs for each `--env-manager`."""
    if _pyenv_has(platform.python_version()):
        yield Diagnosis("mlflow run (virtualenv)", "ok", f"pyenv has Python {platform.python_version()}")
    else:
        state = f"the default manager needs pyenv with Python {platform.python_version()}"
        yield Diagnosis("mlflow run (virtualenv)", "warning", state, "install pyenv, or add --env-manager local")
    if shutil.which("uv"):
        yield Diagnosis("mlflow run (uv)", "ok", "uv is on PATH")
    else:
        yield Diagnosis("mlflow run (uv)", "warning", "uv is not on PATH", "pip install uv, or add --env-manager local")
    wanted = shutil.which("python")
    same = wanted is not None and os.path.realpath(wanted) == os.path.realpath(sys.executable)
    in_venv = sys.prefix != sys.base_prefix and wanted is not None and wanted.startswith(sys.prefix)
    if same or in_venv:
        yield Diagnosis("mlflow run (local)", "ok", f"python on PATH is {wanted}")
    else:
        remedy = "activate the environment first: source .venv/bin/activate"
        yield Diagnosis("mlflow run (local)", "warning", f"python on PATH is {wanted}, not this one", remedy)


def _pyenv_has(version: str) -> bool:
    pyenv = shutil.which("pyenv")
    if pyenv is None:
        return False
    listed = subprocess.run([pyenv, "versions", "--bare"], capture_output=True, text=True, check=False)
    return version in listed.stdout.split()


def _disk() -> Iterator[Diagnosis]:
    root = store.project_root()
    free = shutil.disk_usage(root).free / 2**30
    state = f"{free:.1f} GiB free in {root}"
    if free < LEAST_FREE_GIB:
        yield Diagnosis("disk", "warning", f"{state}: too little for a long sweep", "free some, or tunesmith study gc")
    else:
        yield Diagnosis("disk", "ok", state)


def _store(*, reap: bool) -> Iterator[Diagnosis]:
    try:
        store.client()
    except TunesmithError as error:
        yield Diagnosis("tracking store", "error", str(error), "start the server, or unset MLFLOW_TRACKING_URI")
        return
    yield Diagnosis("tracking store", "ok", store.tracking_uri())
    stale = list(stale_runs())
    if reap:
        for run_id, status, _ in stale:
            run = attach(run_id)
            store.client().set_terminated(run.id, status)
            run.tags({"status": status})
    if not stale:
        yield Diagnosis("runs", "ok", "every status is true")
    for run_id, status, reason in stale:
        state = f"{run_id} {'set to' if reap else 'should be'} {status}: {reason}"
        yield Diagnosis("runs", "ok" if reap else "warning", state, "" if reap else "tunesmith doctor --reap")


def stale_runs() -> Iterator[tuple[str, str, str]]:
    """Runs whose status is not true, with the true one and the reason.

    A RUNNING run is dead when the process of this machine that fed it is gone; a run that
    `mlflow run` ended shows its own status in the tag `tunesmith.status`.
    """
    client = store.client()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for run in client.search_runs(experiments, f"tags.`{TAG}kind` != ''", max_results=5000):
        tags, status = run.data.tags, run.info.status
        truth = tags.get(f"{TAG}status")
        if status != "RUNNING" and truth and truth != status:
            yield run.info.run_id, truth, f"mlflow run recorded {status}"
        elif status == "RUNNING" and tags.get(f"{TAG}host") == socket.gethostname():
            started = tags.get(f"{TAG}process_started", "")
            if started != process_start(int(tags.get(f"{TAG}pid", "0"))):
                yield run.info.run_id, "KILLED", "its process is gone"
