"""How many tokens a pass should hold on this machine with this base: measured, within a memory bound."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tunesmith.config.experiment import AdapterConfig
from tunesmith.config.method import SftConfig
from tunesmith.train.encode import IGNORED, Encoded, Labelled
from tunesmith.train.slots.batch import texts_of
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.network import Network
from tunesmith.train.slots.passes import Limits
from tunesmith.train.slots.slot import Plan

SIZES = (16, 32, 64, 128, 256, 512)  # tokens a slot
PAYS = 0.95  # fused over solo must be below this: a gain that noise cannot make
REPEATS = 3
SLOTS = 2


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and the measured fused / solo time of two slots by tokens a slot.

    Store it with a sweep and hand it to every engine of that sweep: passes, and with them the last
    bits of sums, then depend on the joined slots alone.
    """

    limits: Limits
    ratios: dict[int, float]


def calibrate(engine: Engine, rows: Sequence[Labelled], *, memory_mb: float) -> Calibration:
    """Choose limits for an engine without slots, by short trainings of two slots on cut rows.

    Slots are fused as long as doubling a pass still saves time; if it never does, each trains solo. A
    pass never holds more tokens than `memory_mb` MiB of activations allow. Takes some twenty steps.
    """
    ratios: dict[int, float] = {}
    texts = texts_of(rows)
    most = most_tokens(engine.network, memory_mb)
    fuse = 1
    for size in SIZES:
        if SLOTS * size > most:
            break
        ratios[size] = _fused_over_solo(engine, texts, size)
        if ratios[size] > PAYS:
            break
        fuse = SLOTS * size
    return Calibration(Limits(fuse=min(fuse, most), most=most), ratios)


def most_tokens(network: Network, memory_mb: float) -> int:
    """How many tokens a training pass may have, from what the tapes of all blocks keep of each.

    Counted per token and block: six vectors of the model's width and three of the unit's in the base's
    precision, the heads in that of attention, and one row of probabilities per head, of 256 tokens. Rows that
    add little to a long beginning keep more, up to twice as much: each has keys and values of its own.
    """
    block = network.blocks[0].groups
    width, unit = block["out"].weights[0].shape[0], block["up"].weights[0].shape[0]
    heads = network.heads
    in_base = 6 * width + 3 * unit
    in_attention = heads.all * heads.width + heads.query * (heads.width + 256)
    sizes = (network.dtype.itemsize, network.attention_dtype.itemsize)
    per_token = len(network.blocks) * (in_base * sizes[0] + in_attention * sizes[1])
    return max(1, int(memory_mb * 2**20 / per_token))


def _fused_over_solo(engine: Engine, rows: Sequence[Encoded], size: int) -> float:
    """Time of a fused pass of two slots over that of two passes, the median of interleaved repeats."""
    keys = [("calibration", n) for n in range(SLOTS)]
    usual = engine.limits
    try:
        for n, key in enumerate(keys):
            own = _cut(rows, size, first=n)
            engine.join(key, Plan(own, AdapterConfig(), SftConfig(batch_size=len(own), epochs=1000), seed=n))

        def seconds(fuse: int) -> float:
            engine.limits = Limits(fuse=fuse, most=2 * SLOTS * size)
            return _timed(lambda: engine.step(keys), engine.network.device)

        for fuse in (1, SLOTS * size * 2):
            seconds(fuse)  # what is allocated first is slow
        return statistics.median(seconds(SLOTS * size * 2) / seconds(1) for _ in range(REPEATS))
    finally:
        engine.limits = usual
        for key in keys:
            engine.slots.pop(key, None)


def _cut(rows: Sequence[Encoded], size: int, *, first: int) -> list[Encoded]:
    """About `size` tokens of rows, those of different slots different; each row ends with its reply."""
    cut: list[Encoded] = []
    left, at = size, first
    while left > 0:
        row = rows[at % len(rows)]
        ids, labels = row.input_ids[-left:], row.labels[-left:]
        if all(label == IGNORED for label in labels[1:]):
            labels = [IGNORED] * (len(ids) - 1) + ids[-1:]
        cut.append(Encoded(ids, labels, truncated=True))
        left, at = left - len(ids), at + SLOTS
    return cut


def _timed(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
