"""Whether a model is beyond doubt worse than another before all items are scored. Pure.

A race (Maron and Moore, 1994), by a rank test over items as in F-Race (Birattari et al., 2002).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tunesmith.records import Beaten

ALPHA = 0.01
"""How often at most an equally good model is given up, over all looks together."""
LEAST = 16
"""Items before the first look."""


def looks(items: int) -> tuple[int, ...]:
    """After how many of so many items to look: 16, then twice as many each time, as long as some are left."""
    points = []
    seen = LEAST
    while seen < items:
        points.append(seen)
        seen *= 2
    return tuple(points)


def beaten(
    model: Mapping[str, float], rival: Mapping[str, float], groups: Mapping[str, str], *, items: int
) -> Beaten | None:
    """Whether a model is given up after the items scored so far, of `items` in all; more is better in both.

    Items of a group err together, so each group's mean difference counts once. The level is shared by the looks
    (Bonferroni). Raises `KeyError` when the rival lacks an item.
    """
    by_group = defaultdict(list)
    for item, value in model.items():
        by_group[groups[item]].append(value - rival[item])
    means = [float(np.mean(differences)) for differences in by_group.values()]
    p_value = signed_rank(means)
    if p_value >= ALPHA / max(1, len(looks(items))):
        return None
    return Beaten(len(model), items, float(np.mean(means)), p_value)


def signed_rank(differences: Iterable[float]) -> float:
    """One-sided p-value that differences lie below 0 (Wilcoxon, 1945): small when they do.

    Those that are 0 say nothing and are left out. Exact for ties too: the sum of the positive ranks is compared
    with its distribution over all signs that these very ranks could have.
    """
    from scipy.stats import rankdata  # takes a second to load; races are off by default

    known: Sequence[float] = [difference for difference in differences if difference]
    if not known:
        return 1.0
    ranks = (2 * rankdata(np.abs(known))).astype(int)  # ties share a rank, which may be a half
    chances = np.zeros(int(ranks.sum()) + 1)
    chances[0] = 1.0
    for rank in ranks:
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[:-rank]
        chances = (chances + shifted) / 2
    positive = int(ranks[np.asarray(known) > 0].sum())
    return float(chances[: positive + 1].sum())
