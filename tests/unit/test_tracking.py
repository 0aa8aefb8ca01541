"""Runs end with a truthful status; dead ones are found."""

import multiprocessing
import os
import signal

import pytest
from sqlalchemy import event
from tests.conftest import ROOT

from tunesmith import doctor
from tunesmith.config import Experiment, overrides
from tunesmith.errors import TrackingError
from tunesmith.progress import Progress
from tunesmith.records import TrainedRun
from tunesmith.sweep.executors import LocalWorker
from tunesmith.sweep.following import Follower, log_training
from tunesmith.sweep.protocol import Beat, Interrupted
from tunesmith.sweep.worker import Seat
from tunesmith.tracking import resuming, runs
from tunesmith.tracking import store as tracking_store
from tunesmith.tracking.command import run_command
from tunesmith.tracking.runs import Killed, Terminated


def info(run):
    found = tracking_store.client().get_run(run.id)
    return found.info.status, found.data.tags.get("tunesmith.status"), found.data.tags.get("tunesmith.reason")


def test_metrics_that_wait_go_along_with_what_is_written_next(store):
    run = runs.create("demo", "one", kind="test")
    run.metrics({"loss": 1.0}, step=1)
    found = tracking_store.client().get_run(run.id).data
    assert "loss" not in found.metrics
    run.tags({"note": "here"})
    found = tracking_store.client().get_run(run.id).data
    assert (found.metrics, found.tags["tunesmith.note"]) == ({"loss": 1.0}, "here")
    for step in range(2, 1502):  # more than MLflow takes in one call
        run.metrics({"loss": float(step)}, step=step)
    run.finish("FINISHED")
    points = tracking_store.client().get_metric_history(run.id, "loss")
    assert sorted(point.step for point in points) == list(range(1, 1502))


def points(run, name):
    return sorted((point.step, point.value) for point in tracking_store.client().get_metric_history(run.id, name))


def test_metrics_are_written_within_seconds_though_no_more_come(store, monkeypatch):
    run = runs.create("demo", "one", kind="test")
    follower = Follower(Progress())
    follower.follow("trial-000", run)
    run.metrics({"loss": 1.0}, step=1)
    follower.on_beat()
    assert points(run, "loss") == []
    monkeypatch.setattr(runs, "FLUSH_SECONDS", 0.0)
    follower.on_beat()
    assert points(run, "loss") == [(1, 1.0)]


def test_a_training_that_goes_on_logs_each_step_once_and_leaves_none_out(store):
    """The coordinator was killed when step 3 was done and saved, but not written; steps are made again from there."""
    first = runs.create("demo", "one", kind="test")
    first.metrics({"train/loss": 3.0, "tune/reward_margin": 0.1}, step=1)
    first.metrics({"train/loss": 2.0}, step=2)
    first.flush()
    first.metrics({"train/loss": 1.0}, step=3)
    again = resuming.take_up(first.id)
    again.metrics({"train/loss": 2.5, "tune/reward_margin": 0.2}, step=1)
    again.metrics({"train/loss": 0.5}, step=4)
    curve = ((1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5))
    metrics = {"train/loss": 0.5, "train/tokens": 90.0}
    trained = TrainedRun("", "0" * 64, metrics, {"train/loss": curve, "tune/loss": ((4, 1.5),)}, overfit=False)
    log_training(again, trained)
    again.finish("FINISHED")
    assert points(first, "train/loss") == list(curve)
    assert points(first, "tune/loss") == [(4, 1.5)]
    assert points(first, "tune/reward_margin") == [(1, 0.1)]
    assert points(first, "train/tokens") == [(0, 90.0)]


def test_a_run_that_ends_well_is_finished(store):
    run = runs.create("demo", "one", kind="test")
    with runs.recording(run):
        run.metrics({"loss": 1.5, "bad": float("nan")}, step=3)
    assert info(run) == ("FINISHED", "FINISHED", None)
    found = tracking_store.client().get_run(run.id).data
    assert found.metrics == {"loss": 1.5}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no"), "FAILED"),
        (SystemExit(0), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (Killed("halved"), "KILLED"),
    ],
)
def test_a_run_that_ends_badly_says_how(store, error, status):
    run = runs.create("demo", "one", kind="test")
    with pytest.raises(type(error)), runs.recording(run):
        raise error
    assert info(run)[:2] == (status, status)


def test_sigterm_is_a_kill_and_the_handler_is_put_back(store):
    before = signal.getsignal(signal.SIGTERM)
    run = runs.create("demo", "one", kind="test")
    with pytest.raises(Terminated), runs.recording(run):
        os.kill(os.getpid(), signal.SIGTERM)
    assert info(run) == ("KILLED", "KILLED", "SIGTERM")
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_run_of_mlflow_run_is_adopted_once(store, monkeypatch):
    given = runs.create("demo", "given", kind="test")
    monkeypatch.setenv("MLFLOW_RUN_ID", given.id)
    assert runs.adopt_or_create("demo", "named", kind="sweep").id == given.id
    assert runs.adopt_or_create("demo", "other", kind="sweep").id != given.id
    assert tracking_store.client().get_run(given.id).info.run_name == "named"


def test_doctor_finds_dead_runs_and_overwritten_statuses(store):
    alive = runs.create("demo", "alive", kind="test")
    dead = runs.create("demo", "dead", kind="test")
    dead.tags({"process_started": "1"})
    overwritten = runs.create("demo", "overwritten", kind="test")
    overwritten.finish("KILLED", reason="halved")
    tracking_store.client().set_terminated(overwritten.id, "FAILED")
    assert {(run, status) for run, status, _ in doctor.stale_runs()} == {
        (dead.id, "KILLED"),
        (overwritten.id, "KILLED"),
    }
    list(doctor._store(reap=True))
    assert list(doctor.stale_runs()) == []
    assert info(alive)[0] == "RUNNING"
    assert info(overwritten)[0] == "KILLED"


def test_doctor_warns_of_a_disk_that_is_nearly_full(store, monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_FREE_GIB", 0.0)
    (fine,) = doctor._disk()
    assert fine.severity == "ok"
    assert fine.state.endswith(f" GiB free in {store}")
    monkeypatch.setattr(doctor, "LEAST_FREE_GIB", 1e9)
    (short,) = doctor._disk()
    assert short.severity == "warning"
    assert "tunesmith study gc" in short.remedy


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1:9", "no answer (Connection refused|.*refused.*); start the server or unset it"),
        ("file:///somewhere", "no longer keeps runs in plain files; use sqlite:///FILE"),
    ],
)
def test_a_store_out_of_reach_is_one_line(project, monkeypatch, uri, message):
    monkeypatch.chdir(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracking_store.client.cache_clear()
    with pytest.raises(TrackingError) as caught:
        tracking_store.client()
    assert "\n" not in str(caught.value)
    assert uri in str(caught.value)
    tracking_store.client.cache_clear()


def test_the_command_of_a_run_repeats_its_experiment(store):
    experiment = Experiment.from_yaml("experiments/smoke.yaml")
    changed = overrides.apply(experiment, {"learning_rate": 3e-4, "data.train_rows": 24, "scheduler": "linear"})
    command = run_command(changed)
    assert command.startswith("mlflow run . -e sft -P experiment=experiments/smoke.yaml ")
    pairs = dict(word.split("=", 1) for word in command.split()[6::2])
    del pairs["experiment"]
    arguments = [part for name, value in pairs.items() for part in (f"--{name}", value)]
    assert overrides.apply(experiment, overrides.parse_extra_arguments(arguments)) == changed


def test_the_command_compares_with_the_file_as_it_is_now(store):
    path = store / "experiments/smoke.yaml"
    changed = overrides.apply(Experiment.from_yaml(path), {"learning_rate": 3e-4})
    assert "learning_rate=0.0003" in run_command(changed)
    path.write_text(path.read_text(encoding="utf-8").replace("5.0e-3", "3.0e-4"), encoding="utf-8")
    assert "learning_rate" not in run_command(changed)


def test_a_workers_signs_of_life_reach_who_listens(tmp_path, monkeypatch):
    ours, theirs = multiprocessing.Pipe()
    worker = LocalWorker(Experiment.from_yaml(ROOT / "experiments/smoke.yaml"), tmp_path, Seat(0, None, 1))
    worker.pipe = ours
    monkeypatch.setattr(worker, "_ensure_started", lambda: None)
    for message in (Beat(), Beat(), Interrupted()):
        theirs.send(message)
    follower, beats = Follower(Progress()), []
    monkeypatch.setattr(follower, "on_beat", lambda: beats.append(1))
    with pytest.raises(Killed):
        worker.train((None,), None, follower)
    assert beats == [1, 1]


def test_a_database_is_opened_and_its_schema_looked_at_once_for_all_runs(store):
    runs.create("demo", "first", kind="test").finish("FINISHED")
    engine, statements = tracking_store.client()._tracking_client.store.engine, []
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    for n in range(3):
        run = runs.create("demo", f"run {n}", kind="test")
        run.metrics({"loss": 1.0}, step=1)
        run.finish("FINISHED")
    assert tracking_store.client()._tracking_client.store.engine is engine
    assert statements
    assert not [
        one for one in statements if "alembic_version" in one or "CREATE TABLE" in one or "sqlite_master" in one
    ]
