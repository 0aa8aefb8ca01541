"""The study: exact budgets, nothing lost or doubled by an interruption."""

import io
import sqlite3

import pytest
from optuna.trial import TrialState
from rich.console import Console
from sqlalchemy.event import listen
from tests.studies import advance, arrive, make, run

from tunesmith.config.space import Halving, Sampler
from tunesmith.errors import StudyError
from tunesmith.progress import Progress
from tunesmith.sweep import proposals, status
from tunesmith.sweep import study as studies
from tunesmith.sweep.board import HEADS, SHOWN, Pace, board
from tunesmith.sweep.earlier import Earlier
from tunesmith.sweep.trial_runs import ends


def test_the_grid_comes_first_with_the_experiments_other_values(experiment, space):
    sweep = make(experiment, space)
    first, second = sweep.ask(), sweep.ask()
    assert [t.params["method.learning_rate"] for t in (first, second)] == [5e-3, 1e-4]
    assert all(t.params["method.batch_size"] == experiment.method.batch_size for t in (first, second))
    assert first.user_attrs["source"] == "grid"


def test_a_search_begins_exactly_its_trials_and_trains_few_to_the_end(experiment, space):
    sweep = make(experiment, space)
    segments = run(sweep, 9)
    assert sorted(number for number, rung in segments if rung == 1) == list(range(9))
    finished = sweep.trials(TrialState.COMPLETE)
    assert len(finished) == 1
    assert finished[0].intermediate_values.keys() == {20, 60, 100}


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_an_interrupted_sweep_goes_on_as_if_nothing_had_happened(experiment, space, cut):
    whole = make(experiment, space, "whole")
    expected = run(whole, 9)
    sweep = make(experiment, space, "cut")
    before = run(sweep, 9, most=cut)
    lost = advance(sweep, 9)  # and then the coordinator dies
    again = studies.load(experiment, space, prints={"data": "d"})
    assert again.study.study_name == "cut"
    assert again.recover() == [lost[0]]
    assert again.trials()[lost[0]].user_attrs["sent"] == lost[1]
    arrive(again, *lost)
    assert [*before, lost, *run(again, 9)] == expected
    assert [t.params for t in again.trials()] == [t.params for t in whole.trials()]


def test_a_trial_that_was_asked_but_not_sent_is_not_forgotten(experiment, space):
    sweep = make(experiment, space)
    asked = sweep.ask()
    assert studies.load(experiment, space, prints={"data": "d"}).recover() == [asked.number]


def test_a_trial_cut_off_while_it_was_asked_for_gets_all_its_parameters(experiment, space):
    sweep = make(experiment, space)
    sweep.study.ask()  # out of the queue, and no parameter set yet
    assert sweep.study.trials[0].params == {}
    again = studies.load(experiment, space, prints={"data": "d"})
    assert again.recover() == [0]
    expected = {"method.learning_rate": 5e-3, "method.batch_size": 4, "method.epochs": 1}
    assert again.trials()[0].params == expected
    assert again.ask().params["method.learning_rate"] == 1e-4


def test_a_trial_cut_off_between_its_last_report_and_its_end_is_not_forgotten(experiment, space):
    sweep = make(experiment, space)
    number = sweep.ask().number
    sweep.send(number, 3)
    sweep.report(number, 1.0, fraction=1.0)
    assert sweep.recover() == [number]


def test_a_sweep_goes_on_in_a_space_of_fewer_rungs(experiment, space):
    """Whoever waits on a rung that is none any more waits on; whoever was beyond it goes to the end."""
    before = make(experiment, space)
    waits, goes = before.ask().number, before.ask().number
    for number in (waits, goes):
        before.report(number, 2.0, fraction=0.2)
        before.send(number, 2)
        before.report(number, 1.5, fraction=0.6)
    before.send(goes, 3)
    fewer = space.model_copy(update={"halving": Halving()})
    again = studies.load(experiment, fewer, prints={"data": "d"})
    assert again.recover() == [goes]
    assert run(again, 2) == []


def facts(trials):
    """What is recorded of trials."""
    return [
        (t.number, t.state, t.values, t.params, t.distributions, t.user_attrs, t.intermediate_values) for t in trials
    ]


def test_what_is_kept_in_memory_is_what_the_database_has(experiment, space):
    sweep = make(experiment, space)
    run(sweep, 9, most=12)
    sweep.add({"method.learning_rate": 0.02, "method.batch_size": 4, "method.epochs": 1})
    sweep.remember(sweep.ask().number, spent={"tokens": 5, "seconds": 0.1})
    sweep.prune(sweep.ask().number)
    again = studies.load(experiment, space, prints={"data": "d"})
    assert facts(sweep.trials()) == facts(sweep.study.get_trials()) == facts(again.trials())
    assert sweep.ranking() == sorted(
        (t for t in sweep.trials() if t.intermediate_values),
        key=lambda t: (-t.last_step, t.intermediate_values[t.last_step], t.number),
    )
    assert facts(again.ranking()) == facts(sweep.ranking())
    assert list(again.standings) == sorted(sweep.standings, key=lambda standing: standing.number)
    for state in TrialState:
        assert sweep.trials(state) == [trial for trial in sweep.trials() if trial.state == state]
        assert sweep.known.count(state) == len(sweep.trials(state))
    known, anew = sweep.known, again.known
    assert (anew.added, anew.reports, anew.sendings) == (known.added, known.reports, known.sendings)
    assert anew.added == 1


def test_the_study_is_written_ahead(experiment, space, tmp_path):
    make(experiment, space)
    with sqlite3.connect(tmp_path / "study.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_trial_costs_as_many_statements_after_many_trials_as_after_few(experiment, space):
    sweep = make(experiment, space.model_copy(update={"sampler": Sampler(kind="random")}))
    statements = []
    listen(sweep.study._storage._backend.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    counts = []
    for _ in range(30):
        before = len(statements)
        arrive(sweep, sweep.ask().number, 1)
        counts.append(len(statements) - before)
    assert len(set(counts[2:])) == 1  # the grid's two come from the queue
    statements.clear()
    sweep.begun(), sweep.ranking(), studies.ladder(space).promotable(sweep.standings, closing=False)
    assert statements == []


def test_trials_that_wait_are_not_sent_again_by_recovery(experiment, space):
    sweep = make(experiment, space)
    run(sweep, 9, most=3)
    assert sweep.recover() == []


@pytest.mark.parametrize(
    ("halving", "expected"),
    [
        (Halving(), (0.2, 1.0)),
        (Halving(rungs=2), (0.2, 0.6, 1.0)),
        (Halving(rungs=9, reduction=2), (0.2, 0.4, 0.8, 1.0)),
        (Halving(first_rung=0.5, rungs=2, reduction=2), (0.5, 1.0)),
        (Halving(first_rung=0.5, rungs=5000), (0.5, 1.0)),
        (None, (1.0,)),
    ],
)
def test_rungs_grow_by_the_reduction_up_to_the_end(space, halving, expected):
    assert studies.rungs(space.model_copy(update={"halving": halving})) == expected


@pytest.mark.parametrize(
    ("halving", "expected"),
    [(Halving(), (0.2, 0.6, 1.0)), (Halving(rungs=2), (0.2, 0.6, 0.8, 1.0)), (None, (0.5, 1.0))],
)
def test_tune_loss_is_also_taken_half_way_to_the_end(space, halving, expected):
    assert studies.fractions(space.model_copy(update={"halving": halving})) == expected


def test_a_share_beyond_several_rungs_counts_for_all_of_them(experiment, space):
    sweep = make(experiment, space)
    number = sweep.ask().number
    sweep.report(number, 2.0, fraction=0.6)
    assert sweep.standings[number].losses == (2.0, 2.0)


def test_an_added_trial_is_beyond_the_budget(experiment, space):
    sweep = make(experiment, space)
    params = {"method.learning_rate": 0.02, "method.batch_size": 4, "method.epochs": 1}
    sweep.add(params, warm=0)
    assert sweep.added() == 1
    run(sweep, 2)
    third = sweep.ask()
    assert third.params == params
    assert third.user_attrs.items() >= {"source": "added", "warm": 0}.items()


def test_winners_of_earlier_sweeps_are_queued_once_though_the_queueing_was_cut_off(experiment, space):
    sweep = make(experiment, space)
    params = [{"method.learning_rate": rate, "method.batch_size": 4, "method.epochs": 1} for rate in (0.02, 0.03)]
    winners = [Earlier("a", params[0], same_data=True), Earlier("b", params[1], same_data=False)]
    sweep.begin_with(winners[:1])
    sweep.begin_with(winners)
    assert [trial.user_attrs["source"] for trial in sweep.trials(TrialState.WAITING)] == [
        "grid",
        "grid",
        "winner of sweep a",
        "winner of sweep b",
    ]


def test_how_a_run_has_to_end_is_told_by_the_study_alone_where_it_knows(experiment, space):
    """Studies of old do not say why a trial could not begin; what its run says stays."""
    sweep = make(experiment, space)
    reasons = [{}, {"infeasible": "too large"}, {"refused": "no weights"}, {}, {}]
    trials = [sweep.ask() for _ in reasons]
    for number, reason in enumerate(reasons):
        sweep.remember(number, run_id=f"run {number}", **reason)
    sweep.report(0, 2.0, fraction=0.2)
    for number in (0, 1):
        sweep.prune(number)
    for number in (2, 3):
        sweep.fail(number)
    assert ends(trials) == {
        "run 0": ("KILLED", "halved: others were better after 20% of the steps"),
        "run 1": ("FAILED", "too large"),
        "run 2": ("FAILED", "no weights"),
    }


def test_a_trial_that_could_not_begin_counts_for_nothing(experiment, space):
    sweep = make(experiment, space)
    sweep.add({"method.learning_rate": 0.02, "method.batch_size": 4, "method.epochs": 1}, warm=0)
    while (trial := sweep.ask()).user_attrs.get("source") != "added":
        sweep.prune(trial.number)
    seen = proposals.propose([t for t in sweep.trials() if t is not trial], space, seed=1)
    begun = sweep.begun()
    sweep.fail(trial.number)
    assert (sweep.begun(), sweep.added()) == (begun - 1, 0)
    assert proposals.propose(sweep.trials(), space, seed=1) == seen
    assert trial not in sweep.ranking()
    again = studies.load(experiment, space, prints={"data": "d"})
    assert (again.begun(), again.added(), again.recover()) == (begun - 1, 0, [])


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({}, "lora", "trial 3 has saved no weights yet"),
        ({"adapter.rank": 8}, "lora", "needs the adapter.rank of trial 3, 4; leave it so, or begin anew"),
        ({}, "full", "a whole model"),
    ],
)
def test_what_cannot_begin_with_anothers_weights_is_refused_at_once(tmp_path, monkeypatch, values, kind, message):
    monkeypatch.setattr(status, "sweep_folder", lambda sweep: tmp_path)
    theirs = {"adapter.rank": 4, "method.learning_rate": 0.1}
    with pytest.raises(StudyError, match=message):
        status.require_start("one", 3, theirs, {**theirs, **values}, kind=kind)
    (tmp_path / "trial-003" / "checkpoints" / "step-000003").mkdir(parents=True)
    status.require_start("one", 3, theirs, {**theirs, "method.learning_rate": 0.2}, kind="lora")


def test_the_ranking_prefers_trials_that_got_further(experiment, space):
    sweep = make(experiment, space)
    run(sweep, 9)
    ranking = sweep.ranking()
    assert [t.last_step for t in ranking] == sorted((t.last_step for t in ranking), reverse=True)
    assert ranking[0].last_step == 100


def test_the_board_shows_the_best_trials_and_what_is_left(experiment, space):
    sweep = make(experiment, space)
    run(sweep, 9, most=10)
    number = sweep.ranking()[1].number
    sweep.remember(number, spent={"tokens": 500, "seconds": 10.0})
    pace = Pace(sweep.begun(), 10, here=10, seconds=60.0)
    shown = board(sweep.ranking(SHOWN), studies.ladder(space), trials=9, pace=pace)
    assert shown.title == f"{sweep.begun()} of 9 trials begun, about 18 s of search left"
    resumed = board([], studies.ladder(space), trials=9, pace=Pace(sweep.begun(), 10, here=3, seconds=60.0))
    assert resumed.title == f"{sweep.begun()} of 9 trials begun, about 60 s of search left"
    fresh = board([], studies.ladder(space), trials=9, pace=Pace(sweep.begun(), 10, here=0, seconds=5.0))
    assert fresh.title == f"{sweep.begun()} of 9 trials begun"
    assert [row[1] for row in shown.rows][:2] in (["60%", "20%"], ["60%", "60%"])
    assert shown.rows[1][3] == "50"
    assert len(shown.rows) == min(SHOWN, len(sweep.ranking()))
    screen = io.StringIO()
    progress = Progress()
    progress.table(shown.title, HEADS, shown.rows)
    Console(file=screen, width=120).print(*progress.bars.get_renderables())
    assert "of 9 trials begun" in screen.getvalue()
    assert f"learning_rate {sweep.ranking()[0].params['method.learning_rate']:.3g}" in screen.getvalue()


def test_an_infeasible_trial_is_not_among_the_best(experiment, space):
    sweep = make(experiment, space)
    for loss in (0.1, 0.2, 0.3):
        sweep.report(sweep.ask().number, loss, fraction=0.2)
    sweep.remember(0, infeasible="loss nan")
    sweep.prune(0)
    assert [trial.number for trial in sweep.ranking()] == [1, 2]
    assert [trial.number for trial in studies.load(experiment, space, prints={"data": "d"}).ranking()] == [1, 2]
