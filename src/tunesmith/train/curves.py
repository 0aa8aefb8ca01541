"""What loss curves tell. Pure."""

from collections.abc import Sequence

Curve = Sequence[tuple[int, float]]

TOLERANCE = 0.02


def overfits(train: Curve, tune: Curve) -> bool:
    """Whether tune loss has risen from its minimum by more than 2% while train loss went on falling.

    Both curves are (step, loss) pairs in order; train loss is compared as the mean before the
    minimum's step against the mean after it.
    """
    if len(tune) < 2:
        return False
    best_step, best = min(tune, key=lambda point: point[1])
    after = [loss for step, loss in train if step > best_step]
    before = [loss for step, loss in train if step <= best_step][-len(after) :] if after else []
    if not after or not before:
        return False
    still_falling = sum(after) / len(after) < sum(before) / len(before)
    return tune[-1][1] > best * (1 + TOLERANCE) and still_falling


def marks(total_steps: int, fractions: Sequence[float]) -> dict[int, float]:
    """The step at which each fraction of the training is done, rounded up; the last is always the end."""
    steps = {max(1, -(-int(fraction * total_steps * 1000) // 1000)): fraction for fraction in fractions}
    return {step: fraction for step, fraction in steps.items() if step < total_steps} | {total_steps: 1.0}
