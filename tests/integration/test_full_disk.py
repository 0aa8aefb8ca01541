"""A disk that fills up during a sweep: one line, and the sweep goes on when there is room again."""

import pathlib

import pytest
from benchmarks.orchestration import Idle
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.pool import Pool
from tests.sweeps import SMOKE, runs_of

from tunesmith.audit.checks import require_clean
from tunesmith.config import Experiment, SearchSpace
from tunesmith.config.space import Sampler
from tunesmith.errors import DiskError, StudyError
from tunesmith.progress import Progress
from tunesmith.sweep.budget import Budget
from tunesmith.sweep.coordinator import Coordinator
from tunesmith.sweep.disk import room_on_disk
from tunesmith.sweep.opening import Resume, open_sweep
from tunesmith.sweep.protocol import Failed, Job
from tunesmith.sweep.search import Search
from tunesmith.sweep.worker import _follow
from tunesmith.tracking import runs

TRIALS = 6


@pytest.fixture
def full():
    """Names of SQLite files that may grow no further, as on a full disk."""
    names = set()

    def limit(connection, *_):
        own = pathlib.Path(connection.execute("PRAGMA database_list").fetchone()[2]).name in names
        connection.execute(f"PRAGMA max_page_count = {1 if own else 2**32 - 2}")  # no lower than what it has

    event.listen(Pool, "checkout", limit)
    yield names
    event.remove(Pool, "checkout", limit)


class Filling(Idle):
    """A worker that trains nothing, and at whose third segment the disk is full."""

    def ended(self, segment, listener):
        if len(self.clock) == 2:
            self.fill()
        return super().ended(segment, listener)


def search(parent, study, experiment, worker):
    with (
        runs.recording(parent),
        Progress() as progress,
        Coordinator(experiment, study.space, study, parent, progress) as coordinator,
    ):
        coordinator.crew.workers = [worker]
        Search(coordinator, Budget(TRIALS)).run()


def facts(study):
    return [(trial.number, trial.state, trial.params, trial.values) for trial in study.study.get_trials()]


@pytest.fixture
def opened(store, monkeypatch):
    """Open a sweep of the tiny model, new or again."""
    monkeypatch.setenv("TUNESMITH_STUDY_STORAGE", f"sqlite:///{store / 'optuna.db'}")
    experiment = Experiment.from_yaml(store / "experiments/smoke.yaml")
    space = SearchSpace.from_yaml(store / "search_spaces/smoke.yaml")
    space = space.model_copy(update={"sampler": Sampler(kind="random")})
    report = require_clean(experiment)
    return lambda resume: (*open_sweep(experiment, space, report, resume=resume), experiment)


@pytest.mark.parametrize("name", ["optuna.db", "mlflow.db"])
def test_a_store_without_room_ends_the_sweep_which_then_goes_on(store, opened, full, name):
    undisturbed, whole = opened(Resume.NO), Idle([])
    search(*undisturbed, whole)
    disturbed, worker = opened(Resume.NO), Filling([])
    worker.fill = lambda: full.add(name)
    line = rf"{name}: cannot be written \(database or disk is full\); free some space and resume"
    with pytest.raises(DiskError, match=line), room_on_disk():
        search(*disturbed, worker)
    assert 2 <= len(worker.clock) < len(whole.clock)
    full.clear()
    again = opened(Resume.YES)
    assert again[0].id == disturbed[0].id
    search(*again, Idle([]))
    assert facts(again[1]) == facts(undisturbed[1])
    assert {trial.state for trial in again[1].trials()} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert {run.info.status for run in runs_of(store, "trial")} <= {"FINISHED", "KILLED"}


def test_a_store_without_room_is_one_line_at_the_command_line(store, invoke, full, monkeypatch):
    monkeypatch.setenv("TUNESMITH_STUDY_STORAGE", f"sqlite:///{store / 'optuna.db'}")
    full.add("optuna.db")
    done = invoke("sweep", *SMOKE)
    assert done.exit_code == 1
    problem = f"sqlite:///{store / 'optuna.db'}: cannot be written (database or disk is full)"
    assert done.stderr.strip() == f"error: {problem}; free some space and resume"


def test_a_worker_without_room_says_so(tmp_path):
    class Bench:
        def score(self, job):
            pathlib.Path("/dev/full").write_text("too much")

    class Line(list):
        send = list.append

    _follow(Bench(), Job(None, "trial", str(tmp_path), train=False), line := Line())
    (failed,) = line
    assert isinstance(failed, Failed)
    assert failed.user_error
    assert failed.message == (
        "the disk: cannot be written ([Errno 28] No space left on device); free some space and resume"
    )


def fill_and_say_something_else():
    try:
        pathlib.Path("/dev/full").write_text("too much")
    except OSError:
        raise StudyError("something else") from None


def test_other_errors_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError), room_on_disk():
        (tmp_path / "absent").read_text()
    with pytest.raises(StudyError, match="something else"), room_on_disk():
        fill_and_say_something_else()
