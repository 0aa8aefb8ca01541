"""Trials that may not win: beyond the limits, or not to be trained again from a fresh seed."""

import dataclasses

import pytest
from tests.idle import Worker, opened

from tunesmith.config.space import Confirm, Limits
from tunesmith.errors import OutcomeError
from tunesmith.sweep import confirmation
from tunesmith.sweep.budget import Budget
from tunesmith.sweep.protocol import Failed, Paused
from tunesmith.sweep.search import Search
from tunesmith.tracking import runs

DIVERGED = Failed("loss nan at step 3; lower method.learning_rate", user_error=True)


class Slow(Worker):
    """A worker that takes 100 s for a fifth of the first trial."""

    def ended(self, segment, listener):
        ended = super().ended(segment, listener)
        if segment.key == "trial-000" and isinstance(ended.outcome, Paused):
            return dataclasses.replace(ended, outcome=dataclasses.replace(ended.outcome, seconds=100.0))
        return ended


@pytest.fixture
def place(store, monkeypatch):
    monkeypatch.setenv("TUNESMITH_STUDY_STORAGE", f"sqlite:///{store / 'optuna.db'}")
    return store


@pytest.mark.parametrize("halving", ["as shipped", None])
def test_a_trial_too_slow_for_the_limit_ends_early_and_is_not_confirmed(place, halving):
    changes = {} if halving else {"halving": None}
    with opened(Slow(), limits=Limits(seconds=400), confirm=Confirm(top=3, seeds=1), **changes) as coordinator:
        Search(coordinator, Budget(3)).run()
        slow, *others = coordinator.study.trials()
        assert slow.user_attrs["infeasible"] == "would train for some 500 s; limits.seconds is 400"
        assert slow.intermediate_values.keys() == {20}
        assert all("infeasible" not in trial.user_attrs for trial in others)
        assert {candidate.trial for candidate in confirmation.confirm(coordinator)} == {1, 2}


def test_one_that_fails_from_a_fresh_seed_cannot_win(place):
    worker = Worker(failing={"confirm-000-seed-2": DIVERGED})
    with opened(worker, halving=None, confirm=Confirm(top=2, seeds=2)) as coordinator:
        Search(coordinator, Budget(2)).run()
        (winner,) = confirmation.confirm(coordinator)
        assert winner.trial == 1
        assert len(winner.runs) == 2
        failed = coordinator.study.study.user_attrs["confirm-000-seed-2"]
        assert runs.attach(failed["run_id"]).tag("status") == "FAILED"
        assert runs.attach(failed["run_id"]).tag("reason") == "loss nan at step 3; lower method.learning_rate"
        trained = len(worker.sent)
        assert [again.trial for again in confirmation.confirm(coordinator)] == [1]  # as a resumed sweep does
        assert len(worker.sent) == trained


def test_a_sweep_none_of_whose_trials_can_be_trained_again_says_so(place):
    with opened(
        Worker(failing={"confirm-000-seed-1": DIVERGED}), halving=None, confirm=Confirm(top=1, seeds=1)
    ) as sweep:
        Search(sweep, Budget(1)).run()
        with pytest.raises(OutcomeError, match="no trial could be trained again from fresh seeds"):
            confirmation.confirm(sweep)
