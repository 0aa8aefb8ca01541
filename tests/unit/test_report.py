"""The sweep's report: what it says follows from the record, whatever the record holds."""

import dataclasses
import html.parser
import math
import re

import plotly.offline
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from tests.search_records import PARAMS, failed, halved, infeasible, plausible, sweep, trial

from tunesmith.sweep import compromises, figures, importance, report, results
from tunesmith.sweep.results import ConfirmationRecord

PLOTLY = plotly.offline.get_plotlyjs()


class Rows(html.parser.HTMLParser):
    """The cells of every table, row by row, and the names of all tags."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.tags, self.cell = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        self.cell = None if tag in {"td", "th"} else self.cell

    def handle_data(self, data):
        if self.cell:
            self.tables[-1][-1][-1] += data


def own(page):
    """The page without plotly's script."""
    assert page.count(PLOTLY) <= 1
    return page.replace(PLOTLY, "")


def text(page):
    """What a reader sees, figures aside."""
    return " ".join(html.unescape(re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", own(page), flags=re.DOTALL)).split())


def test_the_leaderboard_holds_the_base_and_every_trial_best_first():
    record = sweep(failed(0), halved(1), trial(2), infeasible(3), trial(4, losses={20: 2.7, 60: 2.1, 100: 1.25}))
    board = Rows(report.page(record)).tables[0]
    assert [row[0] for row in board] == ["trial", "base", "4", "2", "1", "3", "0"]
    assert board[1][6:10] == ["", "", "3.250", "0.125"]
    assert board[2][:11] == ["4", "0.0005", "8", "2", "0", "cosine", "2.700", "2.100", "1.250", "0.500", "1,000"]
    assert [row[12] for row in board[3:]] == [
        "trained in full",
        "halved at 20%",
        "infeasibleloss is not finite",
        "failedthe worker died",
    ]
    assert len({len(row) for row in board[:1] + board[2:]}) == 1


def test_the_saving_is_what_halved_trials_had_left_less_what_faults_lost():
    record = sweep(trial(0), halved(1), infeasible(2), failed(3))
    cost = results.cost(record)
    assert (cost.trained, cost.full, cost.lost, cost.saved) == (1350, 2100, 50, 750)
    assert cost.share == pytest.approx(750 / 2100)
    assert cost.seconds == pytest.approx(15.5)
    assert cost.seconds_saved == pytest.approx(800 * 4.0 / 200)
    page = text(report.page(record))
    assert "1,350 tokens trained; 36% saved against training all trials in full" in page
    assert "750 tokens (36%)" in page
    assert "50 tokens of failed trials" in page


def test_nothing_is_saved_where_nothing_was_halved():
    assert results.cost(sweep(trial(0), trial(1))).saved == 0
    assert results.cost(sweep()).share == 0


def test_the_energy_is_an_estimate_and_says_how_it_was_made():
    record = sweep(trial(0), watts=20.0, workers=2, devices=2, seconds=1800.0)
    assert results.energy(record) == pytest.approx(0.02)
    assert "about 0.02 kWh: 20 W × 2 devices × 0.5 h of wall time; an estimate" in text(report.page(record))
    shared = dataclasses.replace(record, devices=1)  # two workers on one CPU
    assert "about 0.01 kWh: 20 W × 1 device × 0.5 h of wall time; an estimate" in text(report.page(shared))
    assert results.energy(dataclasses.replace(record, watts=None)) is None
    assert "no estimate" in text(report.page(dataclasses.replace(record, watts=None)))


def test_the_summary_names_the_best_trial_and_compares_it_with_the_base():
    page = text(report.page(sweep(trial(0), trial(1), primary_metric="tune/acc")))
    assert "Best trial trial 0 : learning_rate 0.0005, batch_size 8" in page
    assert "tune/acc 0.500 , base 0.125 (+0.375)" in page
    assert "tune loss at 100% of its training 1.500 , base 3.250 (-1.750)" in page
    assert "30 min 00 s on 2 workers (cpu, bfloat16)" in page


def test_a_chosen_winner_comes_before_the_ranking_and_its_confirmations_are_shown():
    again = tuple(ConfirmationRecord(trial=1, seed=n, run_id="c" * 32, loss=1.5, primary=0.25 * n) for n in (1, 2))
    page = report.page(sweep(trial(0), trial(1), confirmations=again, winner=1))
    assert "Winner trial 1 :" in text(page)
    assert "trained again from 2 fresh seeds: tune/intent/exact_match 0.375 on average" in text(page)
    rows = Rows(page).tables[1]
    assert [row[:4] for row in rows[1:]] == [
        ["1", "1", "1.500", "0.250"],
        ["1", "2", "1.500", "0.500"],
        ["1", "mean", "1.500", "0.375"],
    ]


def test_the_rung_table_says_who_was_halved_when():
    record = sweep(trial(0), halved(1), halved(2, losses={20: 2.4, 60: 2.2}, tokens=600), infeasible(3))
    rungs = Rows(report.page(record)).tables[1]
    assert rungs[1] == ["20%", "3", "1", "2", "2.400", "2.500", "200", "800"]
    assert rungs[2] == ["60%", "2", "1", "1", "2.000", "2.100", "600", "400"]
    assert rungs[3] == ["100%", "1", "0", "–", "1.500", "1.500", "0", "0"]


def test_the_page_brings_its_script_once_and_asks_the_network_for_nothing():
    page = report.page(plausible(12))
    assert page.count(PLOTLY) == 1
    tags = Rows(own(page)).tags
    assert not [tag for tag, attrs in tags if tag in {"link", "img", "iframe"} or {"src", "href"} & attrs.keys()]
    assert "default-src 'none'" in next(attrs["content"] for tag, attrs in tags if "http-equiv" in attrs)
    assert "@import" not in own(page)
    assert "url(" not in own(page)


def test_a_record_gives_one_page():
    assert report.page(plausible(8)) == report.page(plausible(8))


def test_everything_is_escaped():
    evil = "</script><script>alert(1)</script>"
    space = {"method.scheduler": CategoricalDistribution(["linear", evil])}
    strange = trial(0, params={"method.scheduler": evil}, run_id=evil, source=evil)
    trials = (
        strange,
        infeasible(1, reason=evil),
        *(trial(n, params={"method.scheduler": "linear"}) for n in (2, 3, 4)),
    )
    record = sweep(*trials, experiment=evil, placement=evil, primary_metric=evil, run_id=evil, distributions=space)
    again = (ConfirmationRecord(trial=0, seed=1, run_id=evil, loss=1.0, primary=0.5),)
    page = own(report.page(dataclasses.replace(record, confirmations=again)))
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert") >= 6


@pytest.mark.parametrize(
    "record",
    [
        sweep(),
        sweep(trial(0)),
        sweep(trial(0, losses={100: 1.5}), trial(1, losses={100: 1.6}), rungs=(1.0,)),
        sweep(*(halved(n) for n in range(5))),
        sweep(*(infeasible(n, curve=((1, 3.0), (2, math.nan))) for n in range(5))),
        sweep(infeasible(0, losses={}, curve=(), tokens=0, full_tokens=0, steps=0), failed(1)),
        sweep(trial(0), infeasible(1, losses={20: math.inf, 60: math.nan}), base_loss=None, base_primary=None),
        sweep(trial(0, losses={20: 2.5, 60: 2.0, 100: math.nan}, primary=math.nan), halved(1)),
        sweep(trial(0, params={}), trial(7, params={"method.epochs": 2}), watts=None, distributions={}),
        sweep(*(trial(n, losses={20: 2.0 + n, 60: 2.0, 100: 1e9 if n == 4 else 1.5}) for n in range(5))),
    ],
    ids=["none", "one", "unhalved", "halved", "infeasible", "nothing", "baseless", "nan", "bare", "diverged"],
)
def test_any_record_has_a_page_without_nan(record):
    page = own(report.page(record))
    assert not re.search(r"\b(nan|NaN|inf|Infinity|None)\b", re.sub(r"overflow[^;}]*", "", page))
    for found in record.trials:
        assert any(row and row[0] == str(found.number) for row in Rows(page).tables[0])


def test_a_page_of_200_long_trials_stays_below_8_megabytes():
    record = plausible(200, points=2000)
    assert len(report.page(record).encode()) < 8_000_000
    assert max(len(found.curve) for found in record.trials) > 1000


def test_importances_are_told_from_the_first_rung_so_that_halved_trials_count_alike():
    record = plausible(40)
    shares = importance.importances(record)
    assert next(iter(shares)) == "learning_rate"
    assert sum(shares.values()) == pytest.approx(1.0)
    later = [
        dataclasses.replace(t, losses={20: t.losses[20], 60: 9.0 - t.losses[20], 100: t.number}) if t.judged else t
        for t in record.trials
    ]
    assert importance.importances(dataclasses.replace(record, trials=tuple(later))) == shares
    known = [t for t in record.trials if t.state == "complete" or not t.judged]
    assert importance.importances(dataclasses.replace(record, trials=tuple(known))) != shares


def test_importances_need_four_trials_that_differ():
    assert importance.importances(sweep(*(trial(n, losses={20: 2.0 + n}) for n in range(3)))) == {}
    assert importance.importances(sweep(*(trial(n) for n in range(6)))) == {}
    assert "need at least 4 trials" in text(report.page(sweep(*(trial(n) for n in range(6)))))


def test_the_study_of_all_trials_keeps_their_numbers_and_values():
    study = importance.with_all_trials(sweep(failed(0), halved(2), infeasible(3), trial(4)))
    states = [t.state for t in study.get_trials()]
    assert states == [*[TrialState.FAIL] * 2, TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[2].value == 2.6
    assert study.trials[4].value == 2.5


def test_a_trial_added_by_hand_may_leave_the_search_space():
    beyond = {**PARAMS, "method.learning_rate": 2e-2, "method.epochs": 5, "method.scheduler": "step", "seed": 3}
    record = sweep(trial(0), trial(1, params=beyond, losses={20: 2.0}, source="added"))
    wide = importance.with_all_trials(record).trials[1].distributions
    assert wide["learning_rate"] == FloatDistribution(1e-5, 2e-2, log=True)
    assert wide["epochs"] == IntDistribution(1, 5)
    assert wide["scheduler"].choices == ("linear", "cosine", "constant", "step")
    assert "seed" in Rows(report.page(record)).tables[0][0]


def test_fields_with_the_same_last_name_keep_their_whole_names():
    assert importance.labels(["method.dropout", "adapter.dropout", "method.epochs"]) == {
        "method.dropout": "method.dropout",
        "adapter.dropout": "adapter.dropout",
        "method.epochs": "epochs",
    }


def test_the_front_holds_what_no_other_trial_beats_in_everything():
    def priced(number, loss, tokens):
        return trial(number, losses={100: loss}, costs={"train/tokens": tokens})

    record = sweep(priced(0, 1.0, 300), priced(1, 2.0, 100), priced(2, 2.5, 200), priced(3, 1.5, 200), halved(4))
    record = dataclasses.replace(record, costs=("train/tokens",), winner=0)
    assert [found.number for found in results.front(record)] == [0, 3, 1]
    shown = report.page(record)
    assert "Loss against cost" in shown
    assert "Loss against cost" not in report.page(sweep(trial(0), trial(1)))


def test_the_front_needs_every_cost_and_shows_parts_of_a_second():
    """A latency is measured, so a trial on which no reply was timed has none."""
    both = {"train/tokens": 1000.0, "latency": 0.01234}
    trials = [trial(0, costs=both), trial(1, costs={"train/tokens": 10.0})]
    record = dataclasses.replace(sweep(*trials), costs=("train/tokens", "latency"))
    assert [found.number for found in results.front(record)] == [0]
    shown = compromises.compromises(record, lambda figure: "")
    assert ">1,000<" in shown
    assert ">0.0123<" in shown


def test_a_trial_that_lost_a_race_is_never_the_best_and_says_why():
    lost = trial(1, losses={100: 0.1}, primary=None, raced="beyond doubt worse than trial 0 on 16 of 24 items")
    record = sweep(trial(0), lost)
    assert [found.number for found in record.ranking()] == [0]
    assert record.best.number == 0
    assert "beyond doubt worse than trial 0 on 16 of 24 items" in report.page(record)


def test_trials_that_overfit_are_named_and_marked_where_tune_loss_was_lowest():
    record = sweep(trial(0, losses={20: 2.5, 60: 1.5, 100: 1.6}), trial(1), halved(2))
    assert results.overfitting_point(record.trials[0]) == (60, 1.5)
    marks = next(trace for trace in figures.tune_curves(record).data if trace.name == "overfits from here")
    assert (marks.x, marks.y, marks.customdata) == ((60,), (1.5,), (0,))
    assert "Trial 0 overfit: a cross marks the lowest tune loss" in text(report.page(record))
    assert "No trial overfits." in text(report.page(sweep(trial(1), halved(2))))
