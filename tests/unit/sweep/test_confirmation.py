"""Which of the confirmed trials wins."""

import pytest

from tunesmith.records import Scores
from tunesmith.sweep.confirmation import Candidate, ranked


def confirmed(trial, score, *, tokens=100.0, error=0.0):
    return Candidate(trial, {}, (f"run-{trial}",), score=score, loss=1.0, error=error, tokens=tokens)


def test_the_best_mean_wins_and_of_those_within_its_standard_error_the_cheapest():
    assert ranked([confirmed(0, 0.50), confirmed(1, 0.60)])[0].trial == 1
    near = [confirmed(0, 0.58, tokens=50.0), confirmed(1, 0.60, error=0.03), confirmed(2, 0.50, tokens=10.0)]
    assert [found.trial for found in ranked(near)] == [0, 1, 2]


@pytest.mark.parametrize(("lower", "sign"), [((), 1), (("reply/perplexity",), -1)])
def test_a_metric_of_which_less_is_better_counts_the_other_way_round(lower, sign):
    scores = Scores({"tune/reply/perplexity": 9.0}, {}, {}, "digest", lower_is_better=lower)
    assert scores.sign("tune/reply/perplexity") == sign
