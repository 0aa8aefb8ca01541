"""A sweep that has chosen its winner and is given more trials, over a worker that trains nothing."""

import random
import re

import pytest
from tests.idle import Worker, opened

from tunesmith.records import Scores
from tunesmith.registry import selection
from tunesmith.sweep.budget import Budget
from tunesmith.sweep.closing import finish, log_search, log_winner
from tunesmith.sweep.confirmation import confirm
from tunesmith.sweep.opening import Resume, going_on
from tunesmith.sweep.search import Search
from tunesmith.sweep.status import status
from tunesmith.tracking import resuming, runs, store

FEW, MORE = 4, 12


@pytest.fixture(autouse=True)
def storage(store, monkeypatch):
    monkeypatch.setenv("TUNESMITH_STUDY_STORAGE", f"sqlite:///{store / 'optuna.db'}")


def best_of(count):
    """Which of the first trials has the least loss at its end, as the worker makes it up."""
    return min(range(count), key=lambda n: random.Random(f"trial-{n:03d}").random())


def sweep(trials, *, resume=Resume.NO):
    """A sweep of so many trials to its end; returns its coordinator and its winner."""
    with opened(Worker(), resume=resume, trials=trials, halving=None) as coordinator:
        Search(coordinator, Budget(trials)).run()
        candidates = confirm(coordinator)
        log_search(coordinator, "cpu", candidates)
        primary = coordinator.experiment.evaluation.primary
        log_winner(coordinator, candidates[0], Scores({primary: 0.5}, {}, {}, "d"))
        finish(coordinator)
    coordinator.parent.finish("FINISHED")
    return coordinator, candidates[0]


def trials_of(run):
    return sorted(
        child.info.run_name for child in resuming.children(run) if child.data.tags["tunesmith.kind"] == "trial"
    )


def names(numbers):
    return [f"trial-{n:03d}" for n in numbers]


def test_another_winner_is_told_in_a_run_of_its_own(monkeypatch):
    """Here in one that `mlflow run` has opened, in another of MLflow's experiments."""
    assert best_of(FEW) != best_of(MORE)
    first, before = sweep(FEW)
    opened_by_mlflow = store.client().create_run(store.client().create_experiment("support"))
    monkeypatch.setenv("MLFLOW_RUN_ID", opened_by_mlflow.info.run_id)
    second, after = sweep(MORE, resume=Resume.YES)
    assert (before.trial, after.trial) == (best_of(FEW), best_of(MORE))
    assert second.study.study.study_name == first.study.study.study_name
    assert second.parent.id == opened_by_mlflow.info.run_id
    assert (trials_of(first.parent), trials_of(second.parent)) == (names(range(FEW)), names(range(FEW, MORE)))
    for coordinator, winner in ((first, before), (second, after)):
        found = store.client().get_run(coordinator.parent.id)
        assert (found.info.status, found.data.tags["tunesmith.winner_trial"]) == ("FINISHED", str(winner.trial))
        rate = winner.params["method.learning_rate"]
        assert float(found.data.params["best.method.learning_rate"]) == rate
    told = going_on(second.study, second.parent)
    assert told.endswith(f"run {second.parent.id}, which adds trials to run {first.parent.id}")
    assert selection.shrinkage(after.runs[0]).trials == selection.shrinkage(before.runs[0]).trials == MORE


def test_nothing_is_extended_where_no_trial_is_wanted():
    first, before = sweep(FEW)
    again, after = sweep(FEW, resume=Resume.YES)
    assert (again.parent.id, after.runs) == (first.parent.id, before.runs)
    assert going_on(again.study, again.parent).endswith(f", run {first.parent.id}")


def test_an_extension_that_is_cut_off_goes_on_in_its_own_run():
    first, _ = sweep(FEW)
    with opened(Worker(), resume=Resume.YES, trials=MORE, halving=None) as cut:
        Search(cut, Budget(FEW + 1)).run()
    assert status(first.experiment).state == "interrupted; go on with sweep --resume"
    second, _ = sweep(MORE, resume=Resume.YES)
    assert second.parent.id == cut.parent.id
    assert trials_of(runs.attach(second.parent.id)) == names(range(FEW, MORE))
    assert status(first.experiment).state == "finished"
    assert first.parent.tag("status") == "FINISHED"


def test_what_was_halved_is_told_of_all_trials():
    with opened(Worker()) as coordinator:
        Search(coordinator, Budget(FEW)).run()
    with opened(Worker(), resume=Resume.YES, trials=MORE) as coordinator:
        notes = []
        coordinator.progress.note = notes.append
        Search(coordinator, Budget(MORE)).run()
    halved, complete = re.fullmatch(r"halved: (\d+) at 20%; trained to the end: (\d+)", notes[-1]).groups()
    assert int(halved) + int(complete) == MORE
    assert int(halved) > FEW
