"""How long a search goes on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """When a search ends: after exactly so many trials, or earlier by the clock or a tune loss that suffices.

    At most `warm_start` of the trials repeat what won earlier sweeps on the same base.
    """

    trials: int
    hours: float | None = None
    target: float | None = None
    warm_start: int = 0
