"""Is one model better than another on the same items? Resampled by group, since rows of a group err together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

DRAWS = 10_000
SEED = 20_260_101
BLOCK = 500  # draws at once, for the memory's sake
MANY = 10  # drawing a kind takes about so much longer than drawing a group


@dataclass(frozen=True)
class Difference:
    """Mean difference candidate − rival and its percentile interval, in the metric's own unit."""

    mean: float
    low: float
    high: float
    items: int
    groups: int
    means: np.ndarray = field(repr=False, compare=False)
    """Resampled means, sorted."""

    @property
    def p_value(self) -> float:
        """One-sided: how often chance alone would show no improvement, from the resampled means."""
        return float((np.searchsorted(self.means, 0.0, side="right") + 1) / (len(self.means) + 1))

    def at(self, confidence: float) -> "Difference":
        """The same difference with bounds at another confidence."""
        low, high = np.quantile(self.means, [1 - confidence, confidence])
        return replace(self, low=float(low), high=float(high))


def paired_difference(
    candidate: Mapping[str, float],
    rival: Mapping[str, float],
    groups: Mapping[str, str],
    *,
    confidence: float,
) -> Difference:
    """Bootstrap the mean difference over items present in both, drawing whole groups with replacement.

    `low` and `high` each bound the difference one-sidedly at `confidence` (cluster bootstrap, Field
    and Welsh, 2007; 10,000 draws, fixed seed). Raises `ValueError` when the items differ or are none.
    """
    if not candidate or candidate.keys() != rival.keys():
        missing = sorted(candidate.keys() ^ rival.keys())
        raise ValueError(
            f"{len(missing)} items are not in both results, {missing[0] if missing else 'all empty'} first"
        )
    sums, counts = group_sums([(groups[item], candidate[item] - rival[item]) for item in sorted(candidate)])
    means = np.sort(resampled_means(sums, counts))
    mean = float(sums.sum() / counts.sum())
    return Difference(mean, mean, mean, items=int(counts.sum()), groups=len(sums), means=means).at(confidence)


def resampled_means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means over as many groups as there are, drawn with replacement, of shape [draws]; the same for the same groups.

    Groups alike are drawn as one kind where that makes far fewer numbers; the distribution is the same.
    """
    rng, total = np.random.default_rng(SEED), len(sums)
    kinds, sizes = np.unique(np.stack([sums, counts], axis=1), axis=0, return_counts=True)
    if len(kinds) <= total // MANY:
        draws = rng.multinomial(total, sizes / total, size=DRAWS)
        return np.asarray((draws @ kinds[:, 0]) / (draws @ kinds[:, 1]))
    picks = (rng.integers(total, size=(BLOCK, total)) for _ in range(DRAWS // BLOCK))
    return np.concatenate([sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1) for drawn in picks])


def group_sums(differences: Sequence[tuple[str, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the differences of each group, both of shape [groups]."""
    names = sorted({group for group, _ in differences})
    index = {name: n for n, name in enumerate(names)}
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    for group, difference in differences:
        sums[index[group]] += difference
        counts[index[group]] += 1
    return sums, counts
