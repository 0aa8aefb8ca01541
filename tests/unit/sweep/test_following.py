"""What is told of trainings: which engine they go through, and what stops nothing."""

import io
import types

import pytest
from optuna.trial import TrialState
from tests.studies import make

from tunesmith.progress import Progress
from tunesmith.sweep.following import Follower
from tunesmith.sweep.outcomes import Outcomes
from tunesmith.sweep.protocol import Inherited, Refused, Routed, Warned
from tunesmith.tracking import runs


@pytest.fixture
def progress():
    shown = Progress()
    shown.console.file = io.StringIO()
    return shown


def test_a_run_is_tagged_with_its_engine_at_once_and_each_reason_against_slots_is_told_once(store, progress):
    news = [
        Routed("trial-000", "slots"),
        Routed("trial-001", "trl", "adapter.dropout 0.1"),
        Routed("trial-002", "trl", "adapter.dropout 0.1"),
        Routed("trial-003", "trl", "adapter.dora"),
    ]
    trials = {one.key: runs.create("smoke", one.key, kind="trial") for one in news}
    for worker in (news[:2], news[2:]):
        follower = Follower(progress)
        for one in worker:
            follower.follow(one.key, trials[one.key])
            follower.on_news(one)
    engines = [run.tag("engine") for run in trials.values()]
    assert engines == ["slots", "trl: adapter.dropout 0.1", "trl: adapter.dropout 0.1", "trl: adapter.dora"]
    assert progress.console.file.getvalue().splitlines() == [
        "  trial-001: goes through trl instead of the slots engine: adapter.dropout 0.1",
        "  trial-003: goes through trl instead of the slots engine: adapter.dora",
    ]


def test_a_warning_of_a_worker_is_shown(store, progress):
    follower = Follower(progress)
    follower.follow("trial-000", runs.create("smoke", "trial-000", kind="trial"))
    follower.on_news(Warned("trial-000", "step-000002: was changed"))
    assert progress.console.file.getvalue() == "  trial-000: step-000002: was changed\n"


def test_a_trial_that_cannot_begin_is_failed_with_its_reason_and_one_that_does_is_tagged(
    store, progress, experiment, space
):
    sweep, run = make(experiment, space), runs.create("smoke", "trial-000", kind="trial")
    coordinator = types.SimpleNamespace(study=sweep, space=space, progress=progress, experiment=experiment)
    follower = Follower(progress)
    follower.follow("trial-000", run)
    follower.on_news(Inherited("trial-000", 12))
    assert run.tag("warm_step") == "12"
    trial = sweep.ask()
    Outcomes(coordinator).record(trial, Refused("trial-007: holds no saved adapter"), run)
    assert sweep.trials()[trial.number].state == TrialState.FAIL
    assert "infeasible" not in trial.user_attrs
    assert (run.tag("status"), run.tag("reason")) == ("FAILED", "trial-007: holds no saved adapter")
    assert progress.console.file.getvalue().rstrip().endswith("trial-007: holds no saved adapter")
