"""What a comparison says follows from the scores: tests, intervals, verdicts, the items that changed, the page."""

import importlib.util
import itertools
import math
import re

import numpy as np
import pytest
from scipy.stats import binomtest
from tests.conftest import ROOT

from tunesmith.comparison.analysis import Outcome, analyse
from tunesmith.comparison.page import page
from tunesmith.errors import ConfigError, EvaluationError
from tunesmith.records import Scores
from tunesmith.stats.binary import mcnemar, paired_interval
from tunesmith.stats.effects import effect
from tunesmith.stats.multiple import holm_adjusted


def alone(values):
    return {item: item for item in values}


def by_number(values):
    return {f"i{n}": float(value) for n, value in enumerate(values)}


@pytest.mark.parametrize(("gained", "lost"), [(10, 2), (0, 6), (5, 5), (1, 0), (40, 21)])
def test_of_single_items_mcnemar_is_a_binomial_test(gained, lost):
    nets = np.array([1.0] * gained + [-1.0] * lost + [0.0] * 9)
    assert mcnemar(nets) == pytest.approx(binomtest(gained, gained + lost).pvalue)


def test_of_groups_mcnemar_counts_every_way_the_signs_could_have_fallen():
    nets = np.array([3, -1, 2, 2, 0, 1, -2])
    sums = [abs(sum(s * n for s, n in zip(signs, nets, strict=True))) for signs in itertools.product((1, -1), repeat=7)]
    expected = sum(total >= abs(nets.sum()) for total in sums) / len(sums)
    assert mcnemar(nets) == pytest.approx(expected)
    assert mcnemar(np.zeros(4)) == 1.0


def test_the_exact_test_over_items_would_take_one_surprise_for_many():
    """Two identical models whose groups of four err together: over items a third are declared, over groups few."""
    rng = np.random.default_rng(2)
    groups = {f"i{n}": f"g{n // 4}" for n in range(160)}
    declared = np.zeros(2)
    for _ in range(300):
        answers = [by_number((rng.random(40) < 0.5).repeat(4)) for _ in range(2)]
        for n, grouped in enumerate((groups, alone(groups))):
            nets: dict[str, float] = {}
            for item, group in grouped.items():
                nets[group] = nets.get(group, 0.0) + answers[1][item] - answers[0][item]
            declared[n] += mcnemar(np.array(list(nets.values()))) <= 0.05
    assert declared[0] / 300 <= 0.06
    assert declared[1] / 300 >= 0.2


@pytest.mark.parametrize(
    ("gained", "lost", "items", "low", "high"),
    # by Tango's score statistic, evaluated on a fine grid with the constrained estimate found by search
    [(10, 2, 300, 0.0048, 0.0545), (0, 0, 300, -0.0126, 0.0126), (5, 0, 5, 0.1310, 1.0)],
)
def test_the_score_interval_of_paired_proportions(gained, lost, items, low, high):
    assert paired_interval(gained, lost, items, confidence=0.95) == pytest.approx((low, high), abs=5e-4)


def test_the_score_interval_inverts_the_score_test():
    """At a bound, the statistic with the best-fitting share of lost items is 1.96."""
    gained, lost, items = 30, 14, 120
    for bound in paired_interval(gained, lost, items, confidence=0.95):
        shares = np.linspace(max(0.0, -bound), (1 - bound) / 2, 400_001)[1:-1]
        fit = gained * np.log(shares + bound) + lost * np.log(shares)
        fit += (items - gained - lost) * np.log(1 - 2 * shares - bound)
        share = shares[np.argmax(fit)]
        statistic = (gained - lost - items * bound) / math.sqrt(items * (2 * share + bound - bound**2))
        assert abs(statistic) == pytest.approx(1.96, abs=1e-3)


def test_an_interval_never_contradicts_its_test():
    """Whatever differs: 0 lies outside exactly where the p-value is at most 5%."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        size, groups = int(rng.integers(20, 90)), int(rng.integers(1, 4))
        first, lift = rng.random(size), rng.normal(0.05, 0.1)
        second = first + rng.normal(lift, 0.3, size)
        if rng.random() < 0.7:
            first, second = np.round(np.clip(first, 0, 1)), np.round(np.clip(second, 0, 1))
        found = effect(by_number(first), by_number(second), {f"i{n}": f"g{n // groups}" for n in range(size)})
        assert (found.low > 0 or found.high < 0) == (found.p_value <= 0.05), found


def test_the_bootstrap_holds_its_error_with_few_groups():
    """Of 600 comparisons of equal models on 12 items, 5% are declared; without the widening 8% would be."""
    rng, declared, plain = np.random.default_rng(8), 0, 0
    for _ in range(600):
        zero, values = by_number(np.zeros(12)), by_number(rng.normal(0, 1, 12))
        found = effect(zero, values, alone(values))
        declared += found.p_value <= 0.05
        spread = np.random.default_rng(1).choice(list(values.values()), size=(2000, 12)).mean(axis=1)
        low, high = np.quantile(spread, [0.025, 0.975])
        plain += low > 0 or high < 0
    assert declared / 600 <= 0.07
    assert plain > declared


def test_the_detectable_difference_is_declared_four_times_of_five():
    rng = np.random.default_rng(4)
    size = 150
    width = effect(by_number(np.zeros(size)), by_number(rng.normal(0, 0.4, size)), alone(by_number(np.zeros(size))))
    truth = 2.802 * 0.4 / math.sqrt(size)
    assert width.detectable(alpha=0.05) == pytest.approx(truth, rel=0.15)
    told = 0
    for _ in range(200):
        values = by_number(rng.normal(truth, 0.4, size))
        told += effect(by_number(np.zeros(size)), values, alone(values)).p_value <= 0.05
    assert 0.72 <= told / 200 <= 0.88


def test_one_group_tells_nothing():
    found = effect(by_number([0, 0.5, 0]), by_number([1, 1, 1]), dict.fromkeys(("i0", "i1", "i2"), "g"))
    assert (found.low, found.high, found.p_value) == (-math.inf, math.inf, 1.0)


def test_holm_never_ranks_a_weaker_test_before_a_stronger():
    assert holm_adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm_adjusted([0.9, 0.6]) == [1.0, 1.0]
    assert holm_adjusted([]) == []


def scores(values, *, loss=None, tasks=("intent",), **more):
    """Scores of tasks with right-or-wrong values, and optionally a loss of which less is better."""
    items = {task: {f"i{n}": {"acc": float(v)} for n, v in enumerate(values)} for task in tasks}
    for n, value in enumerate(loss if loss is not None else ()):
        items[tasks[0]][f"i{n}"]["perplexity"] = float(value)
    samples = [
        {"task": task, "id": item, "target": "billing", "filtered_resps": [f"<i>{item}</i> {found['acc']:g}"]}
        for task, held in items.items()
        for item, found in held.items()
    ]
    means = {f"bench/{task}/acc": float(np.mean(values)) for task in tasks}
    given = {"samples": tuple(samples), "lower_is_better": ("intent/perplexity",), **more}
    return Scores(means, items, {f"i{n}": f"i{n}" for n in range(len(values))}, "d", **given)


def compared(*held, **options):
    return analyse([f"model {n}" for n in range(len(held))], held, split="bench", **options)


def test_less_is_better_where_the_scores_say_so():
    rng = np.random.default_rng(1)
    loss = rng.random(80)
    found = compared(scores([1, 0] * 40, loss=loss), scores([1, 0] * 40, loss=loss + 0.1))
    result = next(r for r in found.results if r.metric == "intent/perplexity")
    assert (result.outcome, result.gain) == (Outcome.WORSE, pytest.approx(-0.1))
    assert found.sentence(1) == "model 1 is worse than model 0 on intent/perplexity; inconclusive on 1 of 2 metrics"
    early = scores([1, 0] * 40, loss=loss, lower_is_better=None)
    assert compared(early, scores([1, 0] * 40, loss=loss + 0.1)).outcome(1) is Outcome.WORSE


def test_several_metrics_and_models_share_one_error():
    """A win that alone is beyond doubt is not among twelve."""
    base, better = scores([0] * 100), scores([1] * 8 + [0] * 92)
    assert compared(base, better).outcome(1) is Outcome.BETTER
    tasks = ("a", "b", "c", "d")
    many = [scores([0] * 100, tasks=tasks) for _ in range(3)]
    many.append(Scores(many[0].metrics, {**many[0].items, "a": better.items["intent"]}, many[0].groups, "d"))
    result = next(r for r in compared(*many).of(3) if r.metric == "a/acc")
    assert (result.alone, result.outcome) == (Outcome.BETTER, Outcome.INCONCLUSIVE)
    assert result.adjusted == pytest.approx(12 * result.effect.p_value)
    assert compared(*many, metrics=["a/acc"]).outcome(3) is Outcome.BETTER


def test_better_here_and_worse_there_is_mixed():
    first = Scores(
        {}, {**scores([0] * 60).items, "b": scores([1] * 60).items["intent"]}, alone(by_number([0] * 60)), "d"
    )
    second = Scores({}, {**scores([1] * 60).items, "b": scores([0] * 60).items["intent"]}, first.groups, "d")
    assert compared(first, second).sentence(1) == "model 1 is better than model 0 on intent/acc and worse on b/acc"


def test_items_that_changed_come_worst_first_with_both_replies():
    first = scores([1, 1, 0, 0, 1], loss=[1, 1, 1, 1, 1])
    second = scores([1, 0, 1, 0, 0], loss=[9, 1, 1, 9, 5])
    changes = compared(first, second).changes[0]
    assert [change.item for change in changes] == ["i4", "i1", "i2"]
    assert changes[0].values == {"acc": (1.0, 0.0), "perplexity": (1.0, 5.0)}
    assert changes[0].replies == ("<i>i4</i> 1", "<i>i4</i> 0")
    assert (changes[0].gain, changes[-1].gain) == (-1.0, 1.0)


def test_a_choice_is_shown_by_its_number():
    sample = {"task": "intent", "id": "i0", "target": 1, "filtered_resps": [[-3.0, False], [-1.0, True]]}
    other = {**sample, "filtered_resps": [[-1.0, False], [-2.0, True]]}
    change = compared(scores([1], samples=(sample,)), scores([0], samples=(other,))).changes[0][0]
    assert (change.target, change.replies) == ("choice 2", ("choice 2 of 2", "choice 1 of 2"))


@pytest.mark.parametrize("answer", [-12.34, [-12.34, False]])
def test_a_likelihood_is_shown_as_lm_eval_gives_it_for_plain_text_and_for_replies(answer):
    sample = {"task": "intent", "id": "i0", "target": "", "filtered_resps": [answer]}
    change = compared(scores([1], samples=(sample,)), scores([0], samples=(sample,))).changes[0][0]
    assert change.replies == ("log-likelihood -12.3", "log-likelihood -12.3")


def test_values_that_are_no_numbers_are_refused_by_item():
    with pytest.raises(EvaluationError, match="intent/acc: the value of item i1 is nan; leave the metric out"):
        compared(scores([1, math.nan]), scores([1, 0]))
    with pytest.raises(ConfigError, match="no item has this metric; did you mean intent/acc"):
        compared(scores([1]), scores([1]), metrics=["intent/ac"])


def test_the_page_escapes_what_models_say_and_asks_the_network_for_nothing():
    evil = "</td><script>alert(1)</script>"
    held = [scores([n, 1] * 30, loss=np.arange(60) + n) for n in range(2)]
    samples = tuple({**sample, "filtered_resps": [evil], "target": evil} for sample in held[0].samples)
    found = analyse([evil, "b"], [scores([0, 1] * 30, loss=np.arange(60), samples=samples), held[1]], split="bench")
    shown = page(found)
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") > 60
    assert not re.search(r"\b(nan|None|inf)\b", shown)
    assert not re.search(r"<(link|img|iframe)|(src|href)=", shown)
    assert "30 changed, 0 for the worse, 30 for the better" in shown
    assert page(found) == shown


@pytest.mark.parametrize("values", [([1], [1]), ([0, 0], [0, 0]), ([1, 0, 1], [0, 1, 0])])
def test_any_comparison_has_a_page_without_nan(values):
    groups = dict.fromkeys(("i0", "i1", "i2"), "one")
    held = [scores(v, loss=[5.0] * len(v)) for v in values]
    shown = page(compared(*(Scores(h.metrics, h.items, groups, "d", h.samples) for h in held)))
    assert not re.search(r"\b(nan|None|inf)\b", shown)


def test_two_identical_models_are_rarely_told_apart_and_naively_nearly_always():
    """A small part of benchmarks/comparison_errors.py."""
    spec = importlib.util.spec_from_file_location("comparison_errors", ROOT / "benchmarks/comparison_errors.py")
    simulation = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simulation)
    found = simulation.simulate(simulation.recorded(), 120, seed=3, metrics=("intent/exact_match", "reply/rouge_l"))
    assert found["declared"] <= 0.1
    assert found["naive"] >= 0.8
