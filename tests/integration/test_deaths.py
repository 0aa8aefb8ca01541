"""Trials whose worker dies: they go on together, then each alone, and the one that is to blame ends the sweep."""

import pytest
from tests.idle import Worker, opened

from tunesmith.errors import OutcomeError
from tunesmith.sweep.budget import Budget
from tunesmith.sweep.protocol import Sharing
from tunesmith.sweep.search import Search
from tunesmith.tracking import runs

DEATH = "worker ended with exit code -9; its last lines:"
FOUR = Sharing(fuse=80, most=4096, row_tokens=10)  # trainings side by side, of batches of two
FIRST = ["trial-000", "trial-001", "trial-002", "trial-003"]


@pytest.fixture(autouse=True)
def place(store, monkeypatch):
    monkeypatch.setenv("TUNESMITH_STUDY_STORAGE", f"sqlite:///{store / 'optuna.db'}")


def test_trials_that_lost_their_worker_twice_go_on_alone_and_then_others_beside_each_other():
    worker = Worker(sharing=FOUR, deadly={"trial-001": 2})
    with opened(worker, halving=None) as coordinator:
        Search(coordinator, Budget(6)).run()
        trials = coordinator.study.trials()
        assert worker.sent == [FIRST, FIRST, *([key] for key in FIRST), ["trial-004", "trial-005"]]
        assert {trial.state.name for trial in trials} == {"COMPLETE"}
        tags = [runs.attach(trial.user_attrs["run_id"]).tag for trial in trials]
        assert [tag("retries") for tag in tags] == ["2", "2", "2", "2", "", ""]
        assert tags[1]("retry_reason") == f"{DEATH}\nallocating 8 GiB"
        assert not any(trial.user_attrs.get("deaths") for trial in trials)


def test_the_trial_at_which_a_worker_dies_three_times_is_named_with_its_last_lines():
    worker = Worker(sharing=FOUR, deadly={"trial-002": 3})
    told = f"trial 2 lost its worker 3 times at the same segment: {DEATH}\nallocating 8 GiB"
    with opened(worker, halving=None) as coordinator:
        with pytest.raises(OutcomeError, match=told):
            Search(coordinator, Budget(4)).run()
        assert [trial.state.name for trial in coordinator.study.trials()] == ["COMPLETE"] * 2 + ["RUNNING"] * 2
