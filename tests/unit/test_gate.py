"""Paired statistics and the verdicts drawn from them."""

import numpy as np
import pytest

from tunesmith.config.policy import Limit, NonInferiority, Policy, Superiority
from tunesmith.gate.decide import Evidence, decide, judge
from tunesmith.records import Decision, Scores
from tunesmith.stats.paired import paired_difference


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
