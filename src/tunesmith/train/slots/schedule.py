"""Learning rates over a training, as transformers computes them."""

import math

from tunesmith.config.method import Training


def warmup_steps(method: Training, total: int) -> int:
    """Over how many of `total` optimiser steps the rate rises: a share is rounded up, 1 is one step."""
    return 1 if method.warmup >= 1 else math.ceil(total * method.warmup)


def learning_rate(method: Training, step: int, total: int) -> float:
    """The rate of optimiser step `step`, counted from 0, of `total`."""
    warmup = warmup_steps(method, total)
    if step < warmup:
        return method.learning_rate * step / max(1, warmup)
    done = (step - warmup) / max(1, total - warmup)
    if method.scheduler == "linear":
        return method.learning_rate * max(0.0, 1.0 - done)
    if method.scheduler == "cosine":
        return method.learning_rate * max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
    return method.learning_rate
