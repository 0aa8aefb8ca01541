"""What a sweep begins, ends, records and reports, over a worker that trains nothing."""

import random

import pytest
from optuna.trial import TrialState
from tests.idle import Worker, opened

from tunesmith.audit.checks import require_clean
from tunesmith.config import Experiment
from tunesmith.config.space import Confirm
from tunesmith.errors import StudyError
from tunesmith.models.references import resolve
from tunesmith.records import Scores
from tunesmith.registry import selection
from tunesmith.registry.selection import Shrinkage
from tunesmith.sweep.account import account
from tunesmith.sweep.budget import Budget
from tunesmith.sweep.closing import log_search, log_winner, shrinkage
from tunesmith.sweep.confirmation import Candidate, confirm
from tunesmith.sweep.opening import Resume, begin_with_earlier
from tunesmith.sweep.protocol import Failed, Spent
from tunesmith.sweep.search import Search
from tunesmith.sweep.status import add_trial
from tunesmith.sweep.worker import Seat
from tunesmith.tracking.store import client

PARAMS = {"method.learning_rate": 0.02, "method.batch_size": 4, "method.epochs": 2}


@pytest.fixture(autouse=True)
def storage(store, monkeypatch):
    monkeypatch.setenv("TUNESMITH_STUDY_STORAGE", f"sqlite:///{store / 'optuna.db'}")


def final_loss(number):
    """The tune loss of a trial at its end, as the worker makes it up."""
    return 1 + random.Random(f"trial-{number:03d}").random()


def states(coordinator):
    return [trial.state for trial in coordinator.study.trials()]


def test_no_trial_begins_once_one_has_reached_the_target():
    losses = [final_loss(n) for n in range(10)]
    target = sorted(losses)[1]
    first = next(n for n, loss in enumerate(losses) if loss <= target)
    assert 1 < first < 9
    with opened(Worker(), halving=None) as coordinator:
        Search(coordinator, Budget(10, target=target)).run()
        assert states(coordinator) == [TrialState.COMPLETE] * (first + 1)


def test_no_trial_begins_once_the_hours_are_over_and_what_has_begun_goes_on():
    with opened(worker := Worker()) as coordinator:
        search = Search(coordinator, Budget(10, hours=1.0))
        worker.meanwhile["trial-003"] = lambda: setattr(search, "began", search.began - 3601)
        search.run()
        assert sorted(state.name for state in states(coordinator)) == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]


@pytest.mark.parametrize("budget", [Budget(10, hours=1.0), Budget(10, target=2.0)])
def test_an_added_trial_runs_although_the_budget_is_spent(budget):
    """Also while points of the grid, which are not begun any more, stand before it in the queue."""
    with opened(worker := Worker(), halving=None) as coordinator:
        search = Search(coordinator, budget)

        def meanwhile():
            search.began -= 3601
            coordinator.heed({"kind": "add", "params": PARAMS})

        worker.meanwhile["trial-000"] = meanwhile
        search.run()
        assert states(coordinator) == [TrialState.COMPLETE, TrialState.WAITING, TrialState.COMPLETE]
        assert coordinator.study.trials()[2].params == PARAMS


def test_what_is_left_is_told_from_what_this_process_has_done():
    with opened(Worker(), halving=None) as coordinator:
        Search(coordinator, Budget(4)).run()
    with opened(worker := Worker(), halving=None, resume=Resume.YES) as coordinator:
        search, titles = Search(coordinator, Budget(8)), []
        coordinator.progress.table = lambda title, *_: titles.append(title)
        search._show()
        worker.meanwhile["trial-004"] = lambda: setattr(search, "began", search.began - 3600)
        search.run()
    assert titles[0] == "4 of 8 trials begun"
    assert titles[1] == "5 of 8 trials begun, about 180 min of search left"


def whole_sweep(*, trials=6, base="b", data="d", **space):
    """A sweep up to its confirmed winner; returns the parent run's id and the record that its report tells."""
    with opened(Worker(), **space) as coordinator:
        coordinator.parent.tags({"base_sha256": base, "data_sha256": data})
        Search(coordinator, Budget(trials)).run()
        candidates = confirm(coordinator)
        log_search(coordinator, "cpu", candidates)
        primary = coordinator.experiment.evaluation.primary
        log_winner(coordinator, candidates[0], Scores({primary: 0.5}, {}, {}, "d"))
        record = account(coordinator, "cpu", candidates)
    coordinator.parent.finish("FINISHED")
    return coordinator, record


def test_the_report_counts_all_processes_and_one_device():
    with opened(Worker()) as first:
        Search(first, Budget(2)).run()
        first.clock.began -= 3600
    with opened(Worker(), resume=Resume.YES) as coordinator:
        record = account(coordinator, "cpu", [])
        assert 3600 < record.seconds < 3700
        coordinator.crew.workers = [Worker(), Worker()]
        assert account(coordinator, "cpu", []).devices == 1
        gpus = [Worker(seat=Seat(n, device=n, threads=None)) for n in range(2)]
        coordinator.crew.workers = gpus
        assert account(coordinator, "cuda", []).devices == 2
    assert record.base_loss == 3.0


def test_an_infeasible_trial_is_told_with_what_it_spent():
    with opened(worker := Worker()) as coordinator:
        worker.failing["trial-001"] = Failed("too bad", user_error=True, spent=Spent(500, 2.5, 20, 0.25))
        Search(coordinator, Budget(3)).run()
        record = account(coordinator, "cpu", [])
    found = record.trials[1]
    assert (found.state, found.reason) == ("infeasible", "too bad")
    assert (found.tokens, found.seconds, found.steps, found.full_tokens) == (500, 2.5, 20, 2000)


@pytest.mark.parametrize("awaited", [False, True])
def test_an_infeasible_trial_leaves_no_checkpoints_unless_another_begins_with_them(awaited):
    with opened(worker := Worker()) as coordinator:
        folders = [coordinator.folder / f"trial-00{n}" for n in range(3)]

        def meanwhile():
            for folder in folders:
                (folder / "checkpoints").mkdir(parents=True)
            if awaited:
                coordinator.heed({"kind": "add", "params": PARAMS, "warm": 1})

        worker.meanwhile["trial-001"] = meanwhile
        worker.failing["trial-001"] = Failed("too bad", user_error=True)
        Search(coordinator, Budget(3)).run()
        assert [folder.exists() for folder in folders] == [True, awaited, True]


def test_no_trial_can_begin_with_the_weights_of_an_infeasible_one():
    with opened(worker := Worker()) as coordinator:

        def ask():
            with pytest.raises(StudyError, match="--warm: trial 1 was infeasible, and its weights are not kept"):
                add_trial(coordinator.experiment, {}, clone=1, warm=True)

        worker.failing["trial-001"] = Failed("too bad", user_error=True)
        worker.meanwhile["trial-002"] = ask
        Search(coordinator, Budget(3)).run()
        assert worker.meanwhile == {}


def test_a_winner_trained_in_full_has_its_shrinkage_logged():
    coordinator, record = whole_sweep()
    metrics = client().get_run(coordinator.parent.id).data.metrics
    best = record.best
    again = record.confirmations[0]
    assert best.state == "complete"
    assert metrics["confirmed/loss"] == again.loss
    assert metrics["confirmed/loss_shrinkage"] == pytest.approx(again.loss - best.last_loss)
    assert metrics["confirmed/primary"] == again.primary
    assert best.primary != again.primary
    assert metrics["confirmed/primary_shrinkage"] == pytest.approx(best.primary - again.primary)
    found = selection.shrinkage(again.run_id)
    assert found.observed == pytest.approx(again.loss - best.last_loss)
    assert found.trials == 6


def test_a_halved_winner_has_no_shrinkage():
    """Its loss after a part of its training is no match for one at the end."""
    with opened(Worker(), confirm=Confirm(top=2, seeds=1)) as coordinator:
        Search(coordinator, Budget(6)).run()
        halved = coordinator.study.trials(TrialState.PRUNED)[0]
        winner = Candidate(halved.number, halved.params, ("r",), score=0.0, loss=1.0)
        assert shrinkage(halved, winner, sign=1) == {}
        again = coordinator.child("again", kind="confirmation", tags={"trial": halved.number})
        again.metrics({"tune/loss": 1.0})
        again.finish("FINISHED")
    assert selection.shrinkage(again.id) is None


def test_what_chance_would_show_is_not_told_from_one_training():
    text = Shrinkage(0.1, None, 4).describe()
    assert text.endswith("; one seed and one trial trained in full cannot tell what chance alone would show")


def test_a_sweep_begins_with_what_won_earlier_ones(monkeypatch):
    """After its grid: of sweeps on the same base, those on the same data first; each is named."""
    base = resolve("bundled:tiny-llama").sha256
    report = require_clean(Experiment.from_yaml("experiments/smoke.yaml"))
    same, known = whole_sweep(trials=5, halving=None, base=base, data=report.data_digest)
    other, told = whole_sweep(trials=2, halving=None, base=base, data="other")
    assert (known.winner, told.winner) == (4, 1)
    with opened(Worker(), halving=None) as coordinator:
        notes = []
        monkeypatch.setattr(coordinator.progress, "note", notes.append)
        begin_with_earlier(coordinator.study, coordinator.experiment, report, coordinator.progress, most=2)
        Search(coordinator, Budget(5)).run()
        trials = coordinator.study.trials()
    won = {same.parent.id: known.best.params, other.parent.id: told.best.params}
    sources = ["grid", "grid", *(f"winner of sweep {run_id}" for run_id in won), "sampler"]
    assert [trial.user_attrs.get("source", "sampler") for trial in trials] == sources
    assert [trial.params for trial in trials[2:4]] == list(won.values())
    tags = client().get_run(trials[2].user_attrs["run_id"]).data.tags
    assert tags["tunesmith.source"] == f"winner of sweep {same.parent.id}"
    assert notes[0].startswith(f"also trying what won sweep {same.parent.id} on the same data: learning_rate ")
    assert notes[1].startswith(f"also trying what won sweep {other.parent.id} on other data: learning_rate ")
