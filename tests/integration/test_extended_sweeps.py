"""A sweep that has chosen its winner and is given more trials, over a worker that trains nothing."""

import random
import re

import pytest
from tests.idle import Worker, opened

from tunesmith.config.space import Confirm
from tunesmith.records import Scores
from tunesmith.registry import evidence, lineage, selection
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


def sweep(budget, *, resume=Resume.NO, ends=True, **space):
    """A sweep to its end; returns its coordinator and the candidates, the winner first.

    With `ends` false its process dies once the winner is logged.
    """
    with opened(Worker(), resume=resume, budget=budget, halving=None, **space) as coordinator:
        Search(coordinator, budget).run()
        candidates = confirm(coordinator)
        log_search(coordinator, "cpu", candidates)
        primary = coordinator.experiment.evaluation.primary
        log_winner(coordinator, candidates[0], Scores({primary: 0.5}, {}, {}, "d"))
        if ends:
            finish(coordinator)
    if ends:
        coordinator.parent.finish("FINISHED")
    return coordinator, candidates


def trials_of(run):
    return sorted(
        child.info.run_name for child in resuming.children(run) if child.data.tags["tunesmith.kind"] == "trial"
    )


def names(numbers):
    return [f"trial-{n:03d}" for n in numbers]


def seconds_of(run):
    info = store.client().get_run(run.id).info
    return (info.end_time - info.start_time) / 1000


def test_another_winner_is_told_in_a_run_of_its_own(monkeypatch):
    """Here in one that `mlflow run` has opened, in another of MLflow's experiments."""
    assert best_of(FEW) != best_of(MORE)
    first, (before,) = sweep(Budget(FEW))
    opened_by_mlflow = store.client().create_run(store.client().create_experiment("support"))
    monkeypatch.setenv("MLFLOW_RUN_ID", opened_by_mlflow.info.run_id)
    second, (after, beaten) = sweep(Budget(MORE), resume=Resume.YES)
    assert (before.trial, {after.trial, beaten.trial}) == (best_of(FEW), {best_of(FEW), best_of(MORE)})
    assert after.score > beaten.score
    assert before in (after, beaten)
    assert second.study.study.study_name == first.study.study.study_name
    assert second.parent.id == opened_by_mlflow.info.run_id
    assert (trials_of(first.parent), trials_of(second.parent)) == (names(range(FEW)), names(range(FEW, MORE)))
    for coordinator, winner in ((first, before), (second, after)):
        found = store.client().get_run(coordinator.parent.id)
        assert (found.info.status, found.data.tags["tunesmith.winner_trial"]) == ("FINISHED", str(winner.trial))
        rate = winner.params["method.learning_rate"]
        assert float(found.data.params["best.method.learning_rate"]) == rate
    told = going_on(second.study, second.parent)
    assert told.endswith(f"run {second.parent.id}, after run {first.parent.id}")
    assert selection.shrinkage(before.runs[0]).trials == MORE
    (whole,) = lineage.outermost(lineage.chain(second.parent.id))
    assert whole["seconds"] == pytest.approx(seconds_of(first.parent) + seconds_of(second.parent))


def test_another_winner_is_told_apart_where_the_space_was_changed():
    first, _ = sweep(Budget(MORE))
    second, candidates = sweep(Budget(MORE), resume=Resume.DESPITE_DRIFT, confirm=Confirm(top=4, seeds=2))
    assert second.parent.id != first.parent.id
    assert len(candidates) == 4


@pytest.mark.parametrize("target", [None, 2.0])
def test_nothing_is_extended_where_no_trial_may_begin(target):
    first, (before,) = sweep(Budget(FEW))
    again, (after,) = sweep(Budget(FEW if target is None else MORE, target=target), resume=Resume.YES)
    assert (again.parent.id, after.runs) == (first.parent.id, before.runs)
    assert going_on(again.study, again.parent).endswith(f", run {first.parent.id}")


def test_an_extension_that_is_cut_off_goes_on_in_its_own_run():
    first, _ = sweep(Budget(FEW))
    with opened(Worker(), resume=Resume.YES, budget=Budget(MORE), halving=None) as cut:
        assert cut.study.study.user_attrs["phase"] == "searching"
        Search(cut, Budget(FEW + 1)).run()
    assert status(first.experiment).state == "interrupted; go on with sweep --resume"
    second, _ = sweep(Budget(MORE), resume=Resume.YES)
    assert second.parent.id == cut.parent.id
    assert trials_of(runs.attach(second.parent.id)) == names(range(FEW, MORE))
    assert status(first.experiment).state == "finished"
    assert first.parent.tag("status") == "FINISHED"


def test_a_sweep_that_died_with_its_winner_known_ends_where_it_is_extended():
    first, _ = sweep(Budget(FEW), ends=False)
    second, _ = sweep(Budget(MORE), resume=Resume.YES)
    assert second.parent.id != first.parent.id
    assert store.client().get_run(first.parent.id).info.status == "KILLED"


def test_what_was_halved_is_told_of_all_trials():
    with opened(Worker()) as coordinator:
        Search(coordinator, Budget(FEW)).run()
    with opened(Worker(), resume=Resume.YES) as coordinator:
        notes = []
        coordinator.progress.note = notes.append
        Search(coordinator, Budget(MORE)).run()
    halved, complete = re.fullmatch(r"halved: (\d+) at 20%; trained to the end: (\d+)", notes[-1]).groups()
    assert int(halved) + int(complete) == MORE
    assert int(halved) > FEW


def test_the_time_of_a_sweep_that_is_gone_is_left_out():
    run = runs.create("smoke", "smoke-sweep", kind="sweep", tags={"extends": "0" * 32})
    run.finish("FINISHED")
    (whole,) = lineage.chain(run.id)
    assert whole["seconds"] == pytest.approx(seconds_of(run))


def test_scores_that_a_version_was_registered_with_stay_its_evidence():
    run = runs.create("smoke", "confirm-000-seed-1", kind="confirmation")
    scored = [Scores({"holdout/intent/accuracy": 0.1 * n}, {}, {}, digest) for n, digest in enumerate("ddd")]
    later = Scores({"holdout/intent/accuracy": 0.9}, {}, {}, "of other tasks")
    for scores in scored[:2]:
        evidence.save(run, candidate=scores, base=scores)
    store.client().create_registered_model("bot")
    store.client().create_model_version("bot", source=f"runs:/{run.id}/package", run_id=run.id)
    for scores in (scored[2], later):
        evidence.save(run, candidate=scores, base=scores)
    assert evidence.load(run.id).candidate.metrics == scored[1].metrics
    assert evidence.load_under(run.id, later.digest).candidate.metrics == later.metrics
