"""By how much two models differ on the same items, how sure that is, and what could have been seen at all."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from tunesmith.stats.binary import design_effect, mcnemar, paired_interval
from tunesmith.stats.paired import Difference, group_sums, paired_difference

CONFIDENCE = 0.95
POWER = 0.8
MCNEMAR, BOOTSTRAP = "exact McNemar", "paired bootstrap"

Values = Mapping[str, float]


@dataclass(frozen=True)
class Effect:
    """The difference of two models' mean values over the same items, the second less the first.

    `low` and `high` bound it at 95%, two-sided and for this metric alone; `p_value` is two-sided too.
    """

    first: float
    second: float
    low: float
    high: float
    p_value: float
    test: str
    items: int
    groups: int
    half_width: float
    """Half of what the interval spans, before it was widened to agree with the test."""

    @property
    def difference(self) -> float:
        """The second's mean less the first's."""
        return self.second - self.first

    def detectable(self, *, alpha: float) -> float:
        """The true difference that would be declared 4 times of 5 at a two-sided error rate `alpha`.

        (1.96 + 0.84) standard errors at 5% (Cohen, 1988), the standard error being told from the interval.
        """
        return float((norm.ppf(1 - alpha / 2) + norm.ppf(POWER)) * self.half_width / norm.ppf((1 + CONFIDENCE) / 2))


def effect(first: Values, second: Values, groups: Mapping[str, str]) -> Effect:
    """Compare two models' values by item: a McNemar test where all are 0 or 1, else a bootstrap; both by group.

    The tests are those of `stats.binary` and `stats.paired`; their intervals hold 0 just where they do not exclude
    that nothing differs. Raises `ValueError` when the items differ or are none.
    """
    binary = all(value in {0.0, 1.0} for value in (*first.values(), *second.values()))
    gains = {item: value - first[item] for item, value in second.items() if item in first}
    if not gains or first.keys() != second.keys():
        raise ValueError("the two have no items, or not the same")
    more, less = sum(gain > 0 for gain in gains.values()), sum(gain < 0 for gain in gains.values())
    sums, counts = group_sums([(groups[item], gain) for item, gain in gains.items()])
    if binary:
        p_value, width = mcnemar(sums), design_effect(sums, counts, more + less)
        low, high = paired_interval(more / width, less / width, len(gains) / width, confidence=CONFIDENCE)
    else:
        spread = paired_difference(second, first, groups, confidence=CONFIDENCE)
        p_value, (low, high) = two_sided(spread), interval(spread)
    cautious = binary and p_value > 1 - CONFIDENCE  # the exact test may not exclude 0 where the interval does
    name = MCNEMAR if binary else BOOTSTRAP
    return Effect(
        first=float(np.mean([first[item] for item in gains])),
        second=float(np.mean([second[item] for item in gains])),
        low=min(low, 0.0) if cautious else low,
        high=max(high, 0.0) if cautious else high,
        p_value=p_value,
        test=name if len(sums) == len(gains) else f"{name} by group",
        items=len(gains),
        groups=len(sums),
        half_width=(high - low) / 2,
    )


def interval(spread: Difference) -> tuple[float, float]:
    """Two-sided percentile interval at 95%, widened as a t interval is for few groups (Hesterberg, 2015)."""
    if spread.groups < 2:
        return -math.inf, math.inf
    freedom = spread.groups - 1
    tail = norm.cdf(math.sqrt(spread.groups / freedom) * t.ppf((1 - CONFIDENCE) / 2, freedom))
    low, high = np.quantile(spread.means, [tail, 1 - tail])
    return float(low), float(high)


def two_sided(spread: Difference) -> float:
    """Two-sided p-value that goes with `interval`: the share of resampled means beyond 0, doubled and widened alike."""
    if spread.groups < 2:
        return 1.0
    count, freedom = len(spread.means), spread.groups - 1
    not_above = np.searchsorted(spread.means, 0.0, side="right")
    not_below = count - np.searchsorted(spread.means, 0.0, side="left")
    share = (min(not_above, not_below) + 1) / (count + 1)
    return float(min(1.0, 2 * t.cdf(math.sqrt(freedom / spread.groups) * norm.ppf(min(share, 0.5)), freedom)))


def needed_items(found: Effect, *, alpha: float) -> int:
    """How many items would show the present difference 4 times of 5: the detectable one shrinks with their root."""
    if not found.difference or not math.isfinite(found.half_width):
        return 0
    return math.ceil(found.items * (found.detectable(alpha=alpha) / found.difference) ** 2)
