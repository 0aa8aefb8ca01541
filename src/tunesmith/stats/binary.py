"""Right or wrong: two models' answers to the same items."""

import math

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, norm


def mcnemar(nets: np.ndarray) -> float:
    """Exact two-sided p-value of no difference, from each group's items gained less items lost, of shape [groups].

    If the models are exchangeable, each group's gain could as well have been a loss of the same size. Where no
    group gains or loses more than one item this is McNemar's exact test (1947): a binomial test over the items
    that differ. Rows of a group err together: counted one by one, one surprise would pass for many.
    """
    sizes = np.abs(nets[nets != 0]).astype(int)
    gain = abs(int(nets.sum()))
    if len(sizes) == 0:
        return 1.0
    if sizes.max() == 1:
        return float(binomtest((len(sizes) + gain) // 2, len(sizes)).pvalue)
    chances = chances_of_gains(sizes)
    gains = np.arange(len(chances)) - sizes.sum()
    return float(min(1.0, chances[np.abs(gains) >= gain].sum()))


def chances_of_gains(sizes: np.ndarray) -> np.ndarray:
    """The chance of every total gain from −Σ sizes to Σ sizes when each group's sign is a fair coin."""
    chances = np.ones(1)
    for size in sizes:
        wider = np.zeros(len(chances) + 2 * size)
        wider[: len(chances)] += chances / 2
        wider[2 * size :] += chances / 2
        chances = wider
    return chances


def design_effect(nets: np.ndarray, counts: np.ndarray, differing: int) -> float:
    """How many times more the rows of groups vary together than as many rows alone would; both arrays [groups].

    The ratio of the variances of the total gain when groups change sign, as `mcnemar` has it, and when items do.
    Where no group gains or loses, there is nothing to tell it from: all rows of a group then count as one.
    """
    together = float((nets**2).sum())
    return together / differing if together else float(counts.mean())


def proportion_interval(hits: float, items: float, *, confidence: float) -> tuple[float, float]:
    """Two-sided score interval of a proportion (Wilson, 1927), which has a width even where none or all are hits."""
    z = float(norm.ppf((1 + confidence) / 2))
    centre = (hits + z**2 / 2) / (items + z**2)
    reach = z * math.sqrt(hits * (items - hits) / items + z**2 / 4) / (items + z**2)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def paired_interval(gained: float, lost: float, items: float, *, confidence: float) -> tuple[float, float]:
    """Two-sided score interval of the difference of two paired proportions (Tango, 1998).

    Holds where few items differ, and where none does. Of grouped rows all three counts are to be divided by their
    design effect (as by Rao and Scott, 1992), so that it excludes 0 where `mcnemar` does, up to the latter's caution.
    """
    z = float(norm.ppf((1 + confidence) / 2))
    high = _upper_bound(gained, lost, items, z)
    return -_upper_bound(lost, gained, items, z), high


def _upper_bound(gained: float, lost: float, items: float, z: float) -> float:
    """The difference above the observed one at which the score statistic falls to −z."""

    def excess(difference: float) -> float:
        b = (2 * items - gained + lost) * difference - gained - lost
        c = -lost * difference * (1 - difference)
        share_lost = (math.sqrt(max(0.0, b * b - 8 * items * c)) - b) / (4 * items)
        variance = items * (2 * share_lost + difference * (1 - difference))
        return (gained - lost - items * difference) / math.sqrt(max(variance, 1e-300)) + z

    observed = (gained - lost) / items
    start, end = observed + 1e-12, 1 - 1e-12
    if start >= end or excess(end) > 0:
        return 1.0
    return float(brentq(excess, start, end))
