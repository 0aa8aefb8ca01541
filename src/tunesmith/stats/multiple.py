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


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Each test's p-value as it counts among all: those at most alpha are beyond chance, at an error of alpha in all.

    Holm's procedure again: times its divisor, but never less than that of a test with a smaller p-value.
    """
    adjusted, least = [1.0] * len(p_values), 0.0
    divisors = holm_divisors(p_values)
    for n in sorted(range(len(p_values)), key=lambda n: -divisors[n]):
        adjusted[n] = least = max(least, min(1.0, p_values[n] * divisors[n]))
    return adjusted
