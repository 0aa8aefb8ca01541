"""Sweeps of the tiny model in processes of their own: started, watched, killed, and what they left."""

import contextlib
import functools
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import urllib.parse
from dataclasses import dataclass
from typing import Any

import optuna
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.conftest import environment

SMOKE = ("experiments/smoke.yaml", "--space", "search_spaces/smoke.yaml", "--policy", "registry/smoke.yaml")
ENTRY_POINT = (
    "-P",
    "experiment=experiments/smoke.yaml",
    "-P",
    "space=search_spaces/smoke.yaml",
    "-P",
    "policy=registry/smoke.yaml",
)
MLFLOW = str(pathlib.Path(sys.executable).parent / "mlflow")

STARTED: list[subprocess.Popen[str]] = []


def launcher(entry: str, *arguments: str) -> list[str]:
    """The command by which MLflow's own launcher runs an entry point."""
    return [MLFLOW, "run", ".", "-e", entry, "--env-manager", "local", *arguments]


def mlflow_run(project: pathlib.Path, entry: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run an entry point through MLflow's launcher, to its end."""
    command, variables = launcher(entry, *arguments), environment(**env)
    return subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)


def runs_by_kind(client: MlflowClient) -> dict[str, list[Run]]:
    """All of Tunesmith's runs in a store by their kind, oldest first."""
    experiments = [e.experiment_id for e in client.search_experiments()]
    kinds: dict[str, list[Run]] = {}
    for run in client.search_runs(experiments, "tags.`tunesmith.kind` != ''", order_by=["attributes.start_time"]):
        kinds.setdefault(run.data.tags["tunesmith.kind"], []).append(run)
    return kinds


def start(project: pathlib.Path, *arguments: str, trials: int = 4, **env: str) -> subprocess.Popen[str]:
    """Start `tunesmith sweep` in a process group of its own, with one worker unless told otherwise."""
    command = [sys.executable, "-m", "tunesmith", "sweep", *SMOKE, "--trials", str(trials), *arguments]
    return begin(project, command, **env)


def begin(project: pathlib.Path, command: list[str], **env: str) -> subprocess.Popen[str]:
    """Start a command that runs a sweep."""
    variables = environment(**{"TUNESMITH_CPU_WORKERS": "1", **env})
    log = (project / "sweep.log").open("a")
    sweep = subprocess.Popen(command, cwd=project, env=variables, stderr=log, text=True, start_new_session=True)
    STARTED.append(sweep)
    return sweep


def end_all() -> None:
    """Kill what is left of all sweeps that were begun; a test that failed may have left one, even a stopped one."""
    while STARTED:
        sweep = STARTED.pop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(sweep.pid, signal.SIGKILL)
        sweep.wait()


def log_of(project: pathlib.Path) -> str:
    """What all sweeps of a project have printed."""
    return (project / "sweep.log").read_text()


def finish(project: pathlib.Path, sweep: subprocess.Popen[str], seconds: float = 240) -> None:
    """Wait until a sweep has ended well."""
    assert sweep.wait(timeout=seconds) == 0, log_of(project)[-3000:]


@functools.cache
def client_of(project: pathlib.Path) -> MlflowClient:
    """The client of a project's store; to open one costs more than to ask it."""
    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


def runs_of(project: pathlib.Path, kind: str) -> list[Run]:
    """The runs of a kind, oldest first."""
    return runs_by_kind(client_of(project)).get(kind, [])


def wait_for(project: pathlib.Path, kind: str, count: int, seconds: float = 90) -> None:
    """Until so many runs of a kind exist."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if len(runs_of(project, kind)) >= count:
            return
        time.sleep(0.1)
    raise AssertionError(f"no {count} runs of kind {kind} within {seconds} s: {log_of(project)[-2000:]}")


def workers_of(sweep: subprocess.Popen[str]) -> list[psutil.Process]:
    """The worker processes of a sweep that live; one may have ended since it was listed."""
    workers = []
    for child in psutil.Process(sweep.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie among them
            if child.ppid() != sweep.pid and "multiprocessing.forkserver" in " ".join(child.cmdline()):
                workers.append(child)  # a fork of the fork server, which is the sweep's own child
    return workers


@dataclass(frozen=True)
class Left:
    """What a finished sweep left: parameters by trial, and the adapters of all trainings that came to their end."""

    params: dict[str, dict[str, str]]
    adapters: dict[str, str]


def left(project: pathlib.Path) -> Left:
    """Check that nothing is lost, doubled or open, and give what a sweep left."""
    study = newest_study(project)
    trials = study.get_trials()
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    runs = [run for kind in ("trial", "confirmation", "base", "holdout", "sweep") for run in runs_of(project, kind)]
    unended = [run.info.run_name for run in runs if run.info.status not in {"FINISHED", "KILLED"}]
    assert unended == []
    own = runs_of(project, "trial")
    numbers = sorted(int(run.data.tags["tunesmith.trial"]) for run in own)
    assert numbers == [trial.number for trial in trials]
    trained = [run for run in (*own, *runs_of(project, "confirmation")) if run.info.status == "FINISHED"]
    names = [run.info.run_name for run in trained]
    assert len(set(names)) == len(names)
    adapters = {run.info.run_name: run.data.tags["tunesmith.adapter_sha256"] for run in trained}
    return Left({run.info.run_name: dict(run.data.params) for run in own}, adapters)


def recorded(project: pathlib.Path) -> dict[tuple[str, str], tuple[Any, ...]]:
    """What every run of a sweep says, by kind and name; there must be one of each.

    Of the ledger's parameters, which are its entries and have times, only whether there are any.
    """
    client = client_of(project)
    runs = [run for found in runs_by_kind(client).values() for run in found]
    said = {
        (run.data.tags["tunesmith.kind"], run.info.run_name): (
            run.info.status,
            run.data.tags.get("tunesmith.reason"),
            bool(run.data.params) if run.data.tags["tunesmith.kind"] == "ledger" else run.data.params,
            set(run.data.metrics),
            files_of(run),
        )
        for run in runs
    }
    assert len(said) == len(runs)
    return said


def files_of(run: Run) -> set[str]:
    """The paths of all of a run's artifacts, which lie on this machine."""
    folder = pathlib.Path(urllib.parse.urlparse(run.info.artifact_uri).path)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def newest_study(project: pathlib.Path) -> optuna.Study:
    """The study of the newest sweep."""
    storage = f"sqlite:///{project / 'optuna.db'}"
    names = optuna.get_all_study_summaries(storage)
    newest = max(names, key=lambda summary: summary.user_attrs["created"])
    return optuna.load_study(study_name=newest.study_name, storage=storage)


def kill(sweep: subprocess.Popen[str], victim: str) -> None:
    """Kill the workers, the coordinator (its workers notice and end), or all at once."""
    workers = workers_of(sweep)
    if victim == "worker":
        for worker in workers:
            worker.kill()
    elif victim == "coordinator":
        sweep.kill()
        sweep.wait()
    else:
        os.killpg(sweep.pid, signal.SIGKILL)
        sweep.wait()


def killed_and_resumed(project: pathlib.Path, victim: str, rng: random.Random, *, within: float) -> Left:
    """A sweep that is killed at a random instant after its first trial began, resumed if need be, and finished."""
    sweep = start(project)
    kill_within(project, sweep, victim, rng.uniform(0, within))
    if victim != "worker":
        sweep = start(project, "--resume")
    finish(project, sweep)
    return left(project)


def kill_within(project: pathlib.Path, sweep: subprocess.Popen[str], victim: str, seconds: float) -> None:
    """Kill a sweep, or its workers, so many seconds after its first trial began, unless it has ended."""
    wait_for(project, "trial", 1)
    time.sleep(seconds)
    if sweep.poll() is None:
        kill(sweep, victim)
