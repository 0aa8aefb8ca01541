"""A sweep killed at any instant ends as if nothing had happened: same trials, same adapters, nothing twice."""

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time

import pytest
from mlflow import MlflowClient
from optuna.exceptions import StorageInternalError
from tests import sweeps
from tests.conftest import ROOT
from tests.servers import tracking_server

from tunesmith.audit.checks import require_clean
from tunesmith.config import Experiment, SearchSpace
from tunesmith.progress import Progress
from tunesmith.sweep import lease
from tunesmith.sweep.coordinator import Coordinator
from tunesmith.sweep.crew import persistent
from tunesmith.sweep.executors import LocalWorker
from tunesmith.sweep.opening import Resume, open_sweep
from tunesmith.sweep.protocol import Job
from tunesmith.sweep.worker import Seat
from tunesmith.tracking.runs import Killed


@pytest.fixture(scope="module")
def whole(finished):
    """What a sweep leaves that nobody disturbs."""
    left = sweeps.left(finished[0])
    assert len(left.params) == 4
    assert len(left.adapters) >= 2
    return left


@pytest.mark.parametrize("victim", ["worker", "coordinator"])
def test_a_killed_sweep_ends_as_if_nothing_had_happened(project, whole, victim):
    assert sweeps.killed_and_resumed(project, victim, random.Random(victim), within=6) == whole


def test_a_worker_that_hangs_is_ended_and_its_trial_goes_on(project, whole):
    """Stopped past its lease, then woken: what it would still say is lost with its pipe."""
    sweep = sweeps.start(project, TUNESMITH_LEASE_SECONDS="6")
    sweeps.wait_for(project, "trial", 1)
    worker = sweeps.workers_of(sweep)[0]
    worker.suspend()
    worker.wait(timeout=30)
    sweeps.finish(project, sweep)
    assert "gave no sign of life for 6 s and was ended" in sweeps.log_of(project)
    assert sweeps.left(project) == whole


def test_a_coordinator_that_slept_past_its_lease_writes_nothing_more(project):
    """Stopped while a trial trains, its study taken over by another machine's process, then woken."""
    sweep = sweeps.start(project)
    wait_for_steps(project)
    study = sweeps.newest_study(project)
    taken = {"host": "elsewhere", "pid": 1, "started": "1", "token": "another", "beat": lease.now().isoformat()}
    take_over(sweep, project, study, taken)
    trials, runs = study.get_trials(), statuses(project)
    time.sleep(5)  # its worker trains on meanwhile, and has results for it
    sweep.send_signal(signal.SIGCONT)
    assert sweep.wait(timeout=40) == 1
    assert "another process has taken this sweep over; this one stops" in sweeps.log_of(project)
    assert study.user_attrs[lease.KEY] == taken
    assert study.get_trials() == trials
    assert runs.items() <= statuses(project).items()  # one more may have been on its way to the store when it stopped


def test_a_sweep_killed_whole_resumes_under_its_first_parent_on_a_tracking_server(project, whole):
    """Started and resumed by MLflow's launcher, on a real server that hands out artifacts itself."""
    arguments = ("--experiment-name", "smoke", *sweeps.ENTRY_POINT, "-P", "trials=4")
    with tracking_server(project) as uri:
        sweep = sweeps.begin(project, sweeps.launcher("sweep", *arguments), MLFLOW_TRACKING_URI=uri)
        sweeps.kill_within(project, sweep, "both", random.Random("both").uniform(0, 6))
        resumption = sweeps.launcher("sweep", *arguments, "-P", "resume=yes")
        sweeps.finish(project, sweeps.begin(project, resumption, MLFLOW_TRACKING_URI=uri))
        client = MlflowClient(uri)
        version = client.get_model_version_by_alias("smoke-bot", "candidate")
        assert str(version.version) == "1"
        assert client.get_run(version.run_id).info.artifact_uri.startswith("mlflow-artifacts:/")
        kinds = sweeps.runs_by_kind(client)
    (parent,) = kinds["sweep"]
    assert kinds["resumption"][0].data.tags["tunesmith.resumes"] == parent.info.run_id
    for kind in ("base", "trial", "confirmation", "holdout"):
        assert {run.data.tags["mlflow.parentRunId"] for run in kinds[kind]} == {parent.info.run_id}
    everything = [run for found in kinds.values() for run in found]
    assert all(run.info.status in {"FINISHED", "KILLED"} for run in everything)
    assert [run.data.tags["tunesmith.trial"] for run in kinds["trial"]] == ["0", "1", "2", "3"]
    assert sweeps.left(project) == whole
    assert list((project / "artifacts").rglob("adapter_model.safetensors"))
    assert not (project / "mlruns").exists()


@pytest.fixture
def study(invoke):
    """Run `tunesmith study ...` as another process than the sweep's: this one."""
    return lambda *arguments: invoke("study", *arguments, "--experiment", "experiments/smoke.yaml")


def test_a_running_sweep_is_watched_extended_paused_and_stopped_from_outside(project, invoke, study):
    sweep = sweeps.start(project, trials=20)
    wait_for_steps(project)
    assert study("pause").exit_code == 0
    until = time.monotonic() + 10  # it looks for requests once a second
    while "searching" in study("status").stdout and time.monotonic() < until:
        time.sleep(0.2)
    assert f"paused, by process {sweep.pid} on" in study("status").stdout
    second = invoke("sweep", *sweeps.SMOKE, "--resume")
    assert second.exit_code == 2
    assert f"is run by process {sweep.pid} on" in second.stderr
    while not newest_checkpoint(project, "trial-0") and time.monotonic() < until:
        time.sleep(0.1)  # "paused" says that it was asked to: a worker finishes its step and saves it
    refused = study("add-trial", "--set", "method.learning_rate=0.9")
    assert "method.learning_rate=0.9: outside the range of this sweep" in refused.stderr
    added = study("add-trial", "--set", "method.learning_rate=0.003", "--clone", "0", "--warm")
    assert "will try method.learning_rate=0.003" in added.stdout, added.stderr
    before = len(sweeps.runs_of(project, "trial"))
    assert before < 20
    assert study("resume").exit_code == 0
    sweeps.wait_for(project, "trial", before + 1)
    assert study("stop").exit_code == 0
    assert sweep.wait(timeout=40) == 1
    assert "the sweep was stopped; go on with the same command and --resume" in sweeps.log_of(project)
    assert {run.info.status for run in sweeps.runs_of(project, "trial")} <= {"FINISHED", "KILLED"}
    assert "interrupted; go on with sweep --resume" in study("status").stdout
    assert "no process runs this sweep" in study("stop").stderr
    sweeps.finish(project, sweeps.start(project, "--resume", trials=5))
    assert len(sweeps.left(project).params) >= 6
    assert "finished" in study("status").stdout
    warm = [run for run in sweeps.runs_of(project, "trial") if run.data.tags["tunesmith.source"] == "added"]
    assert [run.data.params["method.learning_rate"] for run in warm] == ["0.003"]
    assert warm[0].data.tags["tunesmith.warm"] == "0"
    (trial,) = [trial for trial in sweeps.newest_study(project).trials if "warm" in trial.user_attrs]
    assert warm[0].data.tags["tunesmith.warm_step"] == str(trial.user_attrs["warm_step"])


def test_a_worker_that_was_stopped_is_never_started_again(tmp_path):
    """Work that is begun again when its worker dies must end when the sweep is stopped."""
    experiment = Experiment.from_yaml(ROOT / "experiments/smoke.yaml")
    worker = LocalWorker(experiment, tmp_path, Seat(0, device=None, threads=1))
    worker.stop()
    with pytest.raises(Killed, match="the sweep was stopped"):
        persistent(lambda worker: worker.score(Job(experiment, "trial", str(tmp_path), train=False)))(worker)
    assert worker.process is None


def test_a_model_whose_scoring_is_killed_is_scored_again_in_the_same_run(store):
    experiment, space = (
        Experiment.from_yaml("experiments/smoke.yaml"),
        SearchSpace.from_yaml("search_spaces/smoke.yaml"),
    )
    parent, study = open_sweep(experiment, space, require_clean(experiment), resume=Resume.NO)
    with Progress() as progress, Coordinator(experiment, space, study, parent, progress) as coordinator:
        coordinator.start()
        worker = coordinator.crew.workers[0]
        first = worker.process
        os.kill(first.pid, signal.SIGSTOP)  # it hears of the work, and dies before it has done it
        threading.Timer(0.5, first.kill).start()
        coordinator.score(worker, coordinator.child("base", kind="base"), items="trial", adapter=None)
        assert worker.process is not first
    assert [run.info.status for run in sweeps.runs_of(store, "base")] == ["FINISHED"]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_what_was_trained_and_closes_every_run(project, sent, code):
    sweep = sweeps.start(project)
    wait_for_steps(project)
    sweep.send_signal(sent)
    assert sweep.wait(timeout=40) == code
    log = sweeps.log_of(project)
    assert log.strip().endswith("go on with the same command and --resume (mlflow run: -P resume=yes)")
    assert "Traceback" not in log
    for kind in ("sweep", "base", "trial"):
        assert {run.info.status for run in sweeps.runs_of(project, kind)} <= {"FINISHED", "KILLED"}
    assert sweeps.runs_of(project, "sweep")[0].info.status == "KILLED"
    until = time.monotonic() + 10
    while group_lives(sweep.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not group_lives(sweep.pid)
    trained = {name: max(steps) for name, steps in steps_logged(project).items() if steps}
    assert trained == {name: newest_checkpoint(project, name) for name in trained}


def take_over(sweep, project, study, holder):
    """Stop the coordinator and take its study; at another instant if it was writing and so holds a database."""
    for _ in range(20):
        sweep.send_signal(signal.SIGSTOP)
        try:
            with contextlib.closing(sqlite3.connect(project / "mlflow.db", timeout=0)) as runs:
                runs.execute("BEGIN IMMEDIATE")
            study.set_user_attr(lease.KEY, holder)
        except (sqlite3.OperationalError, StorageInternalError):
            sweep.send_signal(signal.SIGCONT)
            time.sleep(0.3)
        else:
            return
    raise AssertionError("the coordinator wrote at every instant")


def steps_logged(project):
    """The steps that each trial's run has logged."""
    history = sweeps.client_of(project).get_metric_history
    runs = sweeps.runs_of(project, "trial")
    return {run.info.run_name: [point.step for point in history(run.info.run_id, "train/loss")] for run in runs}


def wait_for_steps(project, seconds=90):
    """Until a trial has logged a step."""
    sweeps.wait_for(project, "trial", 1)
    until = time.monotonic() + seconds
    while not any(steps_logged(project).values()):
        assert time.monotonic() < until, sweeps.log_of(project)[-2000:]
        time.sleep(0.1)


def newest_checkpoint(project, name):
    """The step after which a training was last saved; 0 before."""
    saved = project.glob(f".tunesmith/sweeps/*/{name}/checkpoints/step-*[0-9]")
    return max((int(path.name[5:]) for path in saved), default=0)


def statuses(project):
    runs = [run for kind in ("sweep", "trial") for run in sweeps.runs_of(project, kind)]
    return {run.info.run_id: run.info.status for run in runs}


def group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
