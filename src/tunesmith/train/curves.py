"""What loss curves tell. Pure."""

from collections.abc import Sequence

Curve = Sequence[tuple[float, float]]

TOLERANCE = 0.02


def overfitting_step(train: Curve, tune: Curve) -> float | None:
    """The step of the lowest tune loss, if tune loss has risen by more than 2% since while train loss went on falling.

    Both curves are (step, loss) pairs in order; train loss is compared as the mean before the
    minimum's step against the mean after it. None: the training does not overfit.
    """
    if len(tune) < 2:
        return None
    best_step, best = min(tune, key=lambda point: point[1])
    after = [loss for step, loss in train if step > best_step]
    before = [loss for step, loss in train if step <= best_step][-len(after) :] if after else []
    if not after or not before:
        return None
    still_falling = sum(after) / len(after) < sum(before) / len(before)
    return best_step if tune[-1][1] > best * (1 + TOLERANCE) and still_falling else None


def marks(total_steps: int, fractions: Sequence[float]) -> dict[int, float]:
    """The step at which each fraction of the training is done, rounded up; the last is always the end."""
    steps = {max(1, -(-int(fraction * total_steps * 1000) // 1000)): fraction for fraction in fractions}
    return {step: fraction for step, fraction in steps.items() if step < total_steps} | {total_steps: 1.0}
