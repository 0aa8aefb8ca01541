"""The winner's curse: the best of many noisy results looks better than it is."""

from collections.abc import Sequence

import numpy as np


def expected_maximum(count: int) -> float:
    """Expected largest of `count` independent standard normal numbers, by integrating its density."""
    x = np.linspace(-9.0, 9.0, 6001)
    step = x[1] - x[0]
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    below = np.clip(np.cumsum(density) * step - density * step / 2, 0, 1)
    return float((x * count * density * below ** (count - 1)).sum() * step)


def pooled_deviation(groups: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation within groups of repeated results; None when nothing was repeated."""
    freedom = sum(len(group) - 1 for group in groups)
    if freedom < 1:
        return None
    squares = sum(float(((np.asarray(group) - np.mean(group)) ** 2).sum()) for group in groups)
    return float(np.sqrt(squares / freedom))
