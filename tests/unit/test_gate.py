"""Paired statistics and the verdicts drawn from them."""

import importlib.util
import re

import numpy as np
import pytest
from tests.conftest import ROOT

from tunesmith.config.policy import Limit, NonInferiority, Policy, Superiority
from tunesmith.gate.decide import Evidence, decide, judge, unknown_metrics
from tunesmith.records import Decision, Scores
from tunesmith.stats.multiple import holm_divisors
from tunesmith.stats.paired import paired_difference
from tunesmith.stats.selection import expected_maximum, pooled_deviation


def scores(values, *, digest="d", metric="exact_match"):
    items = {f"i{n}": {metric: float(value)} for n, value in enumerate(values)}
    groups = {f"i{n}": f"g{n // 2}" for n in range(len(values))}
    return Scores({}, {"intent": items}, groups, digest)


def evidence(candidate, base, champion=None, **metrics):
    return Evidence(metrics, candidate, base, champion)


BEATS = Superiority(rule="beats_champion", metric="holdout/intent/exact_match")
NOT_WORSE = NonInferiority(rule="no_worse_than_base", metric="holdout/intent/exact_match", margin=0.1)


def test_a_clear_win_passes_and_a_clear_loss_fails():
    good, bad = scores([1] * 80 + [0] * 20), scores([0] * 80 + [1] * 20)
    assert judge(BEATS, evidence(good, bad)).decision is Decision.PASS
    assert judge(BEATS, evidence(bad, good)).decision is Decision.FAIL


def test_too_few_items_are_inconclusive():
    assert judge(BEATS, evidence(scores([1, 0, 1, 0]), scores([0, 1, 0, 0]))).decision is Decision.INCONCLUSIVE


def test_equal_models_do_not_beat_each_other_but_are_not_worse():
    same = scores([1, 0] * 50)
    assert judge(BEATS, evidence(same, same)).decision is Decision.INCONCLUSIVE
    assert judge(NOT_WORSE, evidence(same, same)).decision is Decision.PASS


def test_the_champion_is_the_rival_where_there_is_one():
    better, worse = scores([1] * 100), scores([0] * 100)
    assert judge(BEATS, evidence(scores([1] * 100), worse, better)).decision is Decision.INCONCLUSIVE
    assert "against the champion" in judge(BEATS, evidence(better, better, worse)).detail


def test_scores_of_other_items_or_settings_are_not_compared():
    result = judge(BEATS, evidence(scores([1] * 50), scores([0] * 50, digest="other")))
    assert result.decision is Decision.INCONCLUSIVE
    assert "score it again" in result.detail


def test_limits_pass_on_the_limit_and_need_the_metric():
    limit = Limit(rule="at_most", metric="audit/overlap", value=0.0)
    empty = scores([1])
    assert judge(limit, Evidence({"audit/overlap": 0.0}, empty, empty)).decision is Decision.PASS
    assert judge(limit, Evidence({"audit/overlap": 0.1}, empty, empty)).decision is Decision.FAIL
    assert judge(limit, Evidence({}, empty, empty)).decision is Decision.INCONCLUSIVE


def test_a_verdict_is_as_good_as_its_worst_gate():
    policy = Policy(model="bot", gates=[BEATS, NOT_WORSE])
    good, bad = scores([1] * 80 + [0] * 20), scores([0] * 80 + [1] * 20)
    assert decide(policy, evidence(good, bad)).decision is Decision.PASS
    assert decide(policy, evidence(good, bad, good)).decision is Decision.INCONCLUSIVE
    assert decide(policy, evidence(bad, good)).decision is Decision.FAIL


def test_items_must_be_the_same():
    with pytest.raises(ValueError, match="1 items are not in both results, b first"):
        paired_difference({"a": 1.0, "b": 1.0}, {"a": 1.0}, {"a": "g", "b": "g"}, confidence=0.95)


def test_the_one_sided_bound_holds_in_95_of_100_cases():
    """Coverage of the bootstrap's lower bound over 400 simulated comparisons, groups of two."""
    rng, truth, covered = np.random.default_rng(3), 0.1, 0
    for _ in range(400):
        shared = rng.normal(0, 0.3, size=60).repeat(2)
        differences = truth + shared + rng.normal(0, 0.3, size=120)
        ours = {f"i{n}": d for n, d in enumerate(differences)}
        groups = {f"i{n}": f"g{n // 2}" for n in range(120)}
        covered += paired_difference(ours, dict.fromkeys(ours, 0.0), groups, confidence=0.95).low <= truth
    assert 0.91 <= covered / 400 <= 0.98


def test_pairs_of_a_group_count_as_one():
    """Ten groups of ten equal items know no more than ten items."""
    values = {f"i{n}": float(n // 10 % 2) for n in range(100)}
    zero = dict.fromkeys(values, 0.0)
    grouped = paired_difference(values, zero, {i: f"g{int(i[1:]) // 10}" for i in values}, confidence=0.95)
    single = paired_difference(values, zero, {i: i for i in values}, confidence=0.95)
    assert grouped.high - grouped.low > 2 * (single.high - single.low)


def test_several_superiority_gates_share_their_error_by_holm():
    """A win that would pass alone, barely, does not pass beside a second metric that does not."""
    rng = np.random.default_rng(0)
    base = {f"i{n}": {"a": float(n % 2), "b": float(n % 2)} for n in range(200)}
    ours = {
        i: {"a": min(1.0, v["a"] + (n % 20 == 0)), "b": float(rng.random() < 0.5)}
        for n, (i, v) in enumerate(base.items())
    }
    groups = {item: item for item in base}
    evidence = Evidence({}, Scores({}, {"t": ours}, groups, "d"), Scores({}, {"t": base}, groups, "d"))
    gates = [Superiority(rule="beats_base", metric=f"holdout/t/{name}") for name in ("a", "b")]
    together = decide(Policy(model="bot", gates=gates), evidence).gates
    assert [gate.decision for gate in together] == [Decision.PASS, Decision.INCONCLUSIVE]
    assert "97.5% one-sided bounds" in together[0].detail
    assert "95% one-sided bounds" in together[1].detail


@pytest.mark.parametrize(
    ("p_values", "divisors"), [([0.01, 0.04, 0.03], [3, 1, 2]), ([0.2], [1]), ([], []), ([0.5, 0.5], [2, 1])]
)
def test_holm_divides_by_the_tests_still_standing(p_values, divisors):
    assert holm_divisors(p_values) == divisors


def test_a_weaker_metric_does_not_pass_after_a_stronger_one_has_failed():
    strict = Superiority(rule="beats_champion", metric="holdout/intent/exact_match", confidence=0.999999)
    policy = Policy(model="bot", gates=[strict, BEATS])
    few = evidence(scores([1] * 12 + [0] * 88), scores([0] * 4 + [1] * 3 + [0] * 93))
    assert judge(BEATS, few).decision is Decision.PASS
    assert [gate.decision for gate in decide(policy, few).gates] == [Decision.INCONCLUSIVE] * 2


def test_an_inconclusive_gate_says_what_would_pass():
    """The promise holds: with that many more items at the same difference, the bound lies above."""
    result = judge(BEATS, evidence(scores([1] * 53 + [0] * 47), scores([0] * 47 + [1] * 47 + [0] * 6)))
    assert result.decision is Decision.INCONCLUSIVE
    points, items = re.fullmatch(r"passes with \+([\d.]+) points or (\d+) more items", result.wanting).groups()
    assert float(points) > 0
    times = round(1 + int(items) / 100)
    more = evidence(scores(([1] * 53 + [0] * 47) * times), scores(([0] * 47 + [1] * 47 + [0] * 6) * times))
    assert judge(BEATS, more).interval[0] == pytest.approx(0, abs=0.005)


def test_no_number_of_items_helps_a_candidate_that_is_not_ahead():
    same = scores([1, 0] * 50)
    assert judge(BEATS, evidence(same, same)).wanting.endswith("no number of items would do at this difference")


def test_metrics_that_were_never_logged_are_found():
    gates = [
        BEATS,
        Superiority(rule="beats_base", metric="holdout/intent/f1"),
        Limit(rule="at_most", metric="x", value=1.0),
    ]
    tuned = scores([1, 0])
    assert unknown_metrics(Policy(model="bot", gates=gates), evidence(tuned, tuned)) == [1, 2]
    assert unknown_metrics(Policy(model="bot", gates=gates), evidence(tuned, tuned, x=0.0)) == [1]


@pytest.mark.parametrize(("count", "expected"), [(1, 0.0), (2, 0.5642), (30, 2.0428), (100, 2.5076)])
def test_the_expected_best_of_many_equal_ones(count, expected):
    """Values from tables of normal order statistics (Harter, 1961)."""
    assert expected_maximum(count) == pytest.approx(expected, abs=2e-3)


def test_the_spread_within_groups_needs_a_repeat():
    assert pooled_deviation([[1.0, 3.0], [10.0, 12.0]]) == pytest.approx(2**0.5)
    assert pooled_deviation([[1.0], [2.0]]) is None


def test_sweeps_without_a_true_difference_are_rarely_promoted_and_naively_nearly_always():
    """A small part of benchmarks/promotion_errors.py."""
    spec = importlib.util.spec_from_file_location("promotion_errors", ROOT / "benchmarks/promotion_errors.py")
    simulation = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simulation)
    same, better = simulation.simulate(30, 0.0, seed=1), simulation.simulate(30, 0.1, seed=2)
    assert same["gate promotes"] <= 0.1
    assert same["naive promotes"] >= 0.8
    assert better["gate promotes"] >= 0.7
