"""Racing: hopeless models are given up early, equally good ones hardly ever."""

import numpy as np
import pytest
from scipy.stats import wilcoxon

from tunesmith.stats.racing import ALPHA, LEAST, beaten, looks, signed_rank


def test_looks_double_while_items_are_left():
    assert looks(16) == ()
    assert looks(17) == (16,)
    assert looks(200) == (16, 32, 64, 128)


def test_the_p_value_is_wilcoxons_where_nothing_is_tied():
    rng = np.random.default_rng(1)
    for shift in (-1.0, 0.0, 0.5):
        differences = rng.normal(shift, 1.0, size=25)
        expected = wilcoxon(differences, alternative="less", method="exact").pvalue
        assert signed_rank(differences) == pytest.approx(expected)


def test_right_and_wrong_answers_are_told_apart_by_the_sign_test():
    """Where all differences are of one size, the ranks are equal: 1 better of 8 has a chance of 9 in 256."""
    assert signed_rank([-1.0] * 7 + [1.0] + [0.0] * 20) == pytest.approx(9 / 256)
    assert signed_rank([0.0] * 30) == 1.0


def values(numbers):
    return {f"item-{n}": float(value) for n, value in enumerate(numbers)}


def race(model, rival, groups=None):
    """After how many items a model is given up; None if never."""
    groups = groups or {item: item for item in model}
    for seen in looks(len(model)):
        first = dict(list(model.items())[:seen])
        found = beaten(first, rival, groups, items=len(model))
        if found:
            assert found.seen == seen
            return seen
    return None


def test_a_hopeless_model_is_given_up_at_the_first_look():
    rng = np.random.default_rng(2)
    rival = values(rng.uniform(0.5, 1.0, size=100))
    model = {item: value - 0.4 for item, value in rival.items()}
    assert race(model, rival) == LEAST
    assert race(rival, model) is None


@pytest.mark.parametrize("kind", ["graded", "right or wrong"])
def test_an_equally_good_model_is_given_up_in_at_most_one_race_of_a_hundred(kind):
    rng = np.random.default_rng(3)
    races, given_up = 1000, 0
    for _ in range(races):
        both = rng.random((2, 100)) if kind == "graded" else rng.random((2, 100)) < 0.6
        given_up += race(values(both[0]), values(both[1])) is not None
    assert given_up / races <= ALPHA


def test_looking_without_a_correction_would_give_up_more():
    rng = np.random.default_rng(4)
    naive = 0
    for _ in range(1000):
        differences = rng.normal(size=100)
        naive += any(signed_rank(differences[:seen]) < ALPHA for seen in looks(100))
    assert naive / 1000 > ALPHA


def test_items_of_a_group_count_once():
    """Fifteen items that fail for one reason are one observation, not fifteen."""
    rival = values([1.0] * 16)
    model = values([0.0] * 15 + [1.0])
    assert race({**model, "last": 1.0}, {**rival, "last": 1.0}) == 16
    alike = {item: "case" if n < 15 else item for n, item in enumerate([*model, "last"])}
    assert race({**model, "last": 1.0}, {**rival, "last": 1.0}, alike) is None
