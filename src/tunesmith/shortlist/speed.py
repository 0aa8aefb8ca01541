"""How many tokens a second a model takes in on this machine."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from tunesmith.config.experiment import AdapterConfig
from tunesmith.models.loading import attach_fresh, detach, network_of
from tunesmith.shortlist.entry import Speed
from tunesmith.train.encode import Encoded
from tunesmith.train.loss import collate, supervised_nll

ROWS, ROUNDS = 4, 3


def speed_of(base: PreTrainedModel, rows: Sequence[Encoded], adapter: AdapterConfig, *, pad: int) -> Speed:
    """Tokens per second over the first rows: their loss alone, and with the gradients of a LoRA adapter.

    The second is what a training step costs but for the optimiser's own update, which is small. One round warms up.
    """
    batch = tuple(tensor.to(base.device) for tensor in collate(rows[:ROWS], pad=pad))
    tokens = int(batch[1].sum())

    def forward() -> None:
        with torch.inference_mode():
            supervised_nll(base, *batch)[0].item()

    forwards = rates(forward, tokens)
    plain = AdapterConfig(rank=adapter.rank, alpha=adapter.alpha, targets=adapter.targets)
    model = attach_fresh(base, plain, seed=0)
    network = network_of(model)

    def training() -> None:
        torch.autograd.backward(supervised_nll(network, *batch)[0])
        if base.device.type == "cuda":
            torch.cuda.synchronize()

    try:
        return Speed(forwards, rates(training, tokens))
    finally:
        detach(model)


def rates(step: Callable[[], None], tokens: int) -> tuple[float, float, float]:
    """Median, lowest and highest tokens per second of some rounds."""
    step()
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        step()
        found.append(tokens / (time.perf_counter() - began))
    return statistics.median(found), min(found), max(found)
