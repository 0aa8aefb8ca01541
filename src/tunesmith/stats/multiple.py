"""Several tests at once."""

from collections.abc import Sequence


def holm_divisors(p_values: Sequence[float]) -> list[int]:
    """What each test's error rate is divided by: as many tests as have no smaller p-value, itself included.

    Holm's step-down procedure (1979): the smallest of m p-values is held against alpha/m, the next against
    alpha/(m−1), and so on up to the first that fails, with which all larger ones fail.
    """
    order = sorted(range(len(p_values)), key=lambda n: p_values[n])
    divisors = [1] * len(p_values)
    for rank, n in enumerate(order):
        divisors[n] = len(p_values) - rank
    return divisors
