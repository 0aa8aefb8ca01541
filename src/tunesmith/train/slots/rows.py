"""Rows of nodes as attention reads them, in groups of like shape.

What a row has in common with earlier rows is computed there: of those nodes a row needs the keys and values, but
asks no queries. So a row of 126 tokens that shares its first 63 has score matrices half as high.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

EXPLICIT_UP_TO = 640  # tokens a row; the score matrices grow with the square
GROUP_COST = {"cpu": 2**12, "cuda": 2**20}  # of another group, in pairs of query and key; for CUDA estimated


@dataclass(frozen=True)
class Row:
    """The nodes of a row, of which the last `own` stand in no earlier row."""

    nodes: list[int]
    own: int


@dataclass(frozen=True)
class Bucket:
    """Rows of like shape: the node at each position, [rows, longest]; behind a row's end, its first node.

    `lengths` [rows, 1] are those of the rows. Each row asks `queries` queries, at the positions from its `starts`
    [rows, 1] on. Some of these may be asked by an earlier row already, or lie behind the row's end; nobody uses their
    results.
    """

    nodes: torch.Tensor
    lengths: torch.Tensor
    starts: torch.Tensor
    queries: int

    @property
    def real(self) -> torch.Tensor:
        """Whether a position [rows, longest] is within its row."""
        return torch.arange(self.nodes.shape[1], device=self.nodes.device) < self.lengths

    @property
    def asked(self) -> torch.Tensor:
        """The positions of the queries, [rows, queries]."""
        return self.starts + torch.arange(self.queries, device=self.nodes.device)


def explicit(device: torch.device, length: int) -> bool:
    """Whether attention of rows of so many tokens computes explicit score matrices."""
    return device.type == "cpu" and length <= EXPLICIT_UP_TO


def buckets_of(rows: Sequence[Row], *, device: torch.device) -> tuple[Bucket, ...]:
    """All rows with nodes of their own, each in one bucket; long rows, and all on CUDA, ask for all their nodes."""
    short, long = [], []
    for row in rows:
        if row.own and explicit(device, len(row.nodes)):
            short.append(row)
        elif row.own:  # a fused kernel asks from the first node on, as its causal mask does
            long.append(Row(row.nodes, own=len(row.nodes)))
    return tuple(_bucket(group, device) for kind in (short, long) for group in _groups(kind, GROUP_COST[device.type]))


def _groups(rows: Sequence[Row], overhead: int) -> list[list[Row]]:
    """Rows in groups of like shape: those parts of the sorted rows that cost least, each `overhead` besides its pairs.

    `best[n]` is the least that the first n rows can cost, and where their last group begins.
    """
    rows = sorted(rows, key=lambda row: (row.own, len(row.nodes)), reverse=True)
    best: list[tuple[float, int]] = [(0, 0)]
    for end in range(1, len(rows) + 1):
        longest, least = 0, (math.inf, 0)
        for begin in range(end - 1, -1, -1):
            longest = max(longest, len(rows[begin].nodes))
            cost = (end - begin) * rows[begin].own * longest + overhead
            if cost > least[0]:  # and a longer part costs still more
                break
            least = min(least, (best[begin][0] + cost, begin))
        best.append(least)
    groups, end = [], len(rows)
    while end:
        begin = best[end][1]
        groups.append(rows[begin:end])
        end = begin
    return groups[::-1]


def _bucket(rows: Sequence[Row], device: torch.device) -> Bucket:
    longest, queries = max(len(row.nodes) for row in rows), max(row.own for row in rows)
    nodes = [row.nodes + row.nodes[:1] * (longest - len(row.nodes)) for row in rows]
    starts = [min(len(row.nodes) - row.own, longest - queries) for row in rows]
    return Bucket(
        nodes=torch.tensor(nodes, device=device),
        lengths=torch.tensor([len(row.nodes) for row in rows], device=device)[:, None],
        starts=torch.tensor(starts, device=device)[:, None],
        queries=queries,
    )
