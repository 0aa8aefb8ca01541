"""In which order a training sees its rows: a pure function of the seed and the epoch."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch.utils.data import Sampler

from tunesmith.train.team import Team

MOST_BATCHES = 50  # batches that are sorted by length together
FEWEST_CHUNKS = 4  # chunks that a small data set is cut into all the same
EPOCH_STRIDE = 1_000_003  # keeps (seed, epoch + 1) apart from (seed + 1, epoch)

T = TypeVar("T")


def epoch_order(lengths: Sequence[int], *, batch_size: int, seed: int, epoch: int) -> list[int]:
    """Row numbers in the order of one epoch, so that rows of a batch have like lengths.

    The rows are shuffled and cut into chunks of some batches; within a chunk the longest come first.
    The longest row of all opens the epoch, so that memory which does not suffice shows at once.
    """
    generator = torch.Generator().manual_seed((seed + EPOCH_STRIDE * epoch) % 2**63)
    shuffled = torch.randperm(len(lengths), generator=generator).tolist()
    size = batch_size * max(1, min(MOST_BATCHES, len(lengths) // (FEWEST_CHUNKS * batch_size)))
    order = []
    for start in range(0, len(shuffled), size):
        order += sorted(shuffled[start : start + size], key=lambda n: -lengths[n])
    longest = max(range(len(order)), key=lambda at: lengths[order[at]])
    order[0], order[longest] = order[longest], order[0]
    return order


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """How many optimiser steps one pass over the rows takes."""
    return -(-rows // batch_size)


class EpochOrder(Sampler[int]):
    """`epoch_order` as what a data loader draws from; `set_epoch` is called by whoever trains.

    Each process of a team draws its own share of it; `batch_size` is that of all together.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int, team: Team | None = None) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0
        self.team = team or Team()

    def __len__(self) -> int:
        return self.team.even(len(self.lengths)) // self.team.size

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self.lengths, batch_size=self.batch_size, seed=self.seed, epoch=self.epoch)
        return iter(own_share(order, self.team))

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next, counted from 0."""
        self.epoch = epoch


def own_share(order: Sequence[T], team: Team) -> list[T]:
    """What one process gets of rows in an epoch's order: every `size`-th one, so that a pass of all has the next rows.

    All get equally many; up to `size` - 1 rows at the end of the order, others in each epoch, are left out.
    """
    return list(order[: team.even(len(order))][team.rank :: team.size])
