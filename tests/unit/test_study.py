"""The study: exact budgets, deterministic proposals, nothing lost or doubled by an interruption."""

import pytest
from optuna.trial import TrialState

from tunesmith.config import Experiment, SearchSpace, overrides
from tunesmith.errors import StudyError
from tunesmith.sweep import plots
from tunesmith.sweep import study as studies


@pytest.fixture
def experiment(root):
    return Experiment.from_yaml(root / "experiments/smoke.yaml")


@pytest.fixture
def space(root):
    return SearchSpace.from_yaml(root / "search_spaces/smoke.yaml")


@pytest.fixture(autouse=True)
def storage(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_STUDY_STORAGE", f"sqlite:///{tmp_path / 'study.db'}")


def make(experiment, space, name="one"):
    return studies.create(experiment, space, name=name, prints={"data": "d"})


def loss(params):
    return abs(params["method.learning_rate"] - 0.01) * 100 + params["method.batch_size"] / 10


def run(sweep, count):
    """Complete or prune trials until `count` have ended; every third is pruned."""
    while len(sweep.ended()) < count:
        trial = sweep.ask()
        trial.report(loss(trial.params), step=20)
        if trial.number % 3 == 1:
            sweep.study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.report(loss(trial.params), step=100)
            sweep.study.tell(trial, loss(trial.params))


def test_the_grid_comes_first_with_the_experiments_other_values(experiment, space):
    sweep = make(experiment, space)
    first, second = sweep.ask(), sweep.ask()
    assert [t.params["method.learning_rate"] for t in (first, second)] == [5e-3, 1e-4]
    assert all(t.params["method.batch_size"] == experiment.method.batch_size for t in (first, second))


def test_an_interrupted_sweep_goes_on_as_if_nothing_had_happened(experiment, space):
    whole = make(experiment, space, "whole")
    run(whole, 7)
    cut = make(experiment, space, "cut")
    run(cut, 4)
    studies.load(experiment, space, prints={"data": "d"})
    again = studies.load(experiment, space, prints={"data": "d"})
    assert again.study.study_name == "cut"
    run(again, 7)
    assert [t.params for t in again.ended()] == [t.params for t in whole.ended()]


def test_a_trial_left_running_is_repeated_exactly_once(experiment, space):
    sweep = make(experiment, space)
    run(sweep, 3)
    lost = sweep.ask()
    assert [t.number for t in sweep.recover()] == [lost.number]
    assert sweep.recover() == []
    again = sweep.ask()
    assert again.params == lost.params
    assert again.user_attrs == {"retry_of": lost.number, "attempt": 2}
    sweep.study.tell(again, 1.0)
    assert sweep.ask().params != lost.params


def test_a_kill_between_failing_and_queueing_loses_nothing(experiment, space):
    sweep = make(experiment, space)
    run(sweep, 2)
    lost = sweep.ask()
    sweep.study.tell(lost, state=TrialState.FAIL)  # and here the coordinator died
    sweep.recover()
    assert sweep.ask().params == lost.params


def test_attempts_are_limited(experiment, space):
    sweep = make(experiment, space)
    for attempt in range(1, studies.MAX_ATTEMPTS + 1):
        trial = sweep.ask()
        assert trial.user_attrs.get("attempt", 1) == attempt or attempt == 1
        sweep.study.tell(trial, state=TrialState.FAIL)
        more = sweep.retry(sweep.study.trials[trial.number])
        if attempt == 1:  # the rest of the grid is queued before the retry
            grid = sweep.ask()
            sweep.study.tell(grid, 1.0)
    assert not more


def test_a_resumed_sweep_must_be_the_same(experiment, space):
    make(experiment, space)
    with pytest.raises(StudyError, match="changed since one began: data; undo that or start anew"):
        studies.load(experiment, space, prints={"data": "other"})
    other = overrides.apply(experiment, {"name": "other"})
    with pytest.raises(StudyError, match="no sweep of other is recorded"):
        studies.load(other, space, prints={"data": "d"})


def test_the_fingerprint_names_what_changed(experiment, space):
    before = studies.fingerprint(experiment, space, data="d")
    after = studies.fingerprint(overrides.apply(experiment, {"model.max_length": 128}), space, data="d")
    assert {key for key in before if before[key] != after[key]} == {"experiment", "model"}


def test_rungs_grow_by_the_reduction_up_to_the_end(space):
    assert studies.rungs(space) == pytest.approx((0.2, 0.6, 1.0))


def test_halving_stops_all_but_the_best_third(experiment, space):
    sweep = make(experiment, space)
    stopped = []
    for value in (1.0, 2.0, 3.0, 0.5, 4.0, 0.9):
        trial = sweep.ask()
        trial.report(value, step=20)
        stopped.append(trial.should_prune())
        sweep.study.tell(
            trial,
            state=TrialState.PRUNED if stopped[-1] else TrialState.COMPLETE,
            values=None if stopped[-1] else [value],
        )
    assert stopped == [False, True, True, False, True, False]


def test_the_ranking_prefers_trials_that_got_further(experiment, space):
    sweep = make(experiment, space)
    run(sweep, 5)
    ranking = sweep.ranking()
    assert len(ranking) == 5
    assert [t.last_step for t in ranking] == [100, 100, 100, 20, 20]
    assert studies.last_value(ranking[0]) == min(t.value for t in ranking[:3])


def test_the_plots_hold_every_trial_and_need_no_network(experiment, space):
    sweep = make(experiment, space)
    run(sweep, 6)
    copy = plots.with_all_trials(sweep)
    assert len(copy.get_trials(states=(TrialState.COMPLETE,))) == 6
    assert sum(t.state == TrialState.PRUNED for t in sweep.ended()) == 2
    page = plots.page(sweep, title="A <search>")
    assert "A &lt;search&gt;" in page
    assert all(name in page for name in plots.PLOTS)
    assert 'src="http' not in page
    assert sum(plots.importances(sweep).values()) == pytest.approx(1.0)
