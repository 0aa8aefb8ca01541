"""Rows of several slots as one flat row of tokens, with what rows begin with in common computed once.

The rows of a slot form a trie: a node is a token together with all tokens before it, so rows with equal
beginnings share nodes. Everything but attention works on nodes; attention gathers each row's
nodes again. Nodes of different slots are never shared, since their adapters differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tunesmith.models.trie import Trie
from tunesmith.train.encode import IGNORED, Encoded, Labelled
from tunesmith.train.slots.padded import Padding, padding
from tunesmith.train.slots.rows import Bucket, Row, buckets_of

Span = tuple[int, int]


@dataclass(frozen=True)
class Tokens:
    """How many nodes each slot has, and how they are padded for batched products if that pays."""

    counts: tuple[int, ...]
    padding: Padding | None

    def split(self, matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each slot's own rows of a matrix with a row for each node."""
        return torch.split(matrix, list(self.counts))


@dataclass(frozen=True)
class Batch:
    """Nodes, the rows they form, and the losses to be computed.

    `ids` and `positions` are [nodes]; `tokens` says whose they are. `states` and `labels` are [losses]: after
    which node which token is predicted; `loss_spans` holds each slot's losses.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    tokens: Tokens
    buckets: tuple[Bucket, ...]
    states: torch.Tensor
    labels: torch.Tensor
    loss_spans: tuple[Span, ...]


def build(parts: Sequence[Sequence[Labelled]], *, device: torch.device, share: bool = True) -> Batch:
    """The batch of some slots' rows. Without `share` no node is shared."""
    trie = Trie()
    found: list[Row] = []
    counts, loss_spans = [], []
    states: list[int] = []
    labels: list[int] = []
    for rows in parts:
        first, first_loss = len(trie.ids), len(states)
        trie.children = {}
        for text in texts_of(rows):
            trie.children = trie.children if share else {}
            before = len(trie.ids)
            path = trie.add(text.input_ids)
            found.append(Row(path, own=len(trie.ids) - before))
            for node, label in zip(path, text.labels[1:], strict=False):
                if label != IGNORED:
                    states.append(node)
                    labels.append(label)
        counts.append(len(trie.ids) - first)
        loss_spans.append((first_loss, len(states)))
    return Batch(
        ids=torch.tensor(trie.ids, device=device),
        positions=torch.tensor(trie.positions, device=device),
        tokens=Tokens(tuple(counts), padding(counts, device)),
        buckets=buckets_of(found, device=device),
        states=torch.tensor(states, device=device, dtype=torch.long),
        labels=torch.tensor(labels, device=device, dtype=torch.long),
        loss_spans=tuple(loss_spans),
    )


def count_nodes(rows: Sequence[Labelled]) -> int:
    """How many tokens of some rows of one slot have to be computed."""
    trie = Trie()
    for text in texts_of(rows):
        trie.add(text.input_ids)
    return len(trie.ids)


def texts_of(rows: Sequence[Labelled]) -> list[Encoded]:
    """The texts of rows, one row's after the other."""
    return [text for row in rows for text in row.texts]
