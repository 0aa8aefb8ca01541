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
from tunesmith.train.slots.padded import Padding, Span, padding

BUCKET = 0.7  # a row shorter than this share of its bucket's longest opens the next one
SHORT = 24  # below this many tokens padding costs less than another bucket


@dataclass(frozen=True)
class Bucket:
    """Rows of like length: the node at each position, [rows, longest]; behind a row's end, its first node."""

    nodes: torch.Tensor


@dataclass(frozen=True)
class Tokens:
    """Each slot's nodes, and how they are padded for batched products if that pays."""

    spans: tuple[Span, ...]
    padding: Padding | None


@dataclass(frozen=True)
class Batch:
    """Nodes, the rows they form, and the losses to be computed.

    `ids` and `positions` are [nodes]; `tokens` says whose they are. `home` [nodes] is a place in all
    buckets laid end to end where each node stands; `repeated` says whether some node stands in several.
    `states` and `labels` are [losses]: after which node which token is predicted; `loss_spans` holds each
    slot's losses.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    tokens: Tokens
    buckets: tuple[Bucket, ...]
    home: torch.Tensor
    repeated: bool
    states: torch.Tensor
    labels: torch.Tensor
    loss_spans: tuple[Span, ...]


def build(parts: Sequence[Sequence[Labelled]], *, device: torch.device, share: bool = True) -> Batch:
    """The batch of some slots' rows. Without `share` no node is shared."""
    trie = Trie()
    paths: list[list[int]] = []
    spans, loss_spans = [], []
    states: list[int] = []
    labels: list[int] = []
    for rows in parts:
        first, first_loss = len(trie.ids), len(states)
        trie.children = {}
        for text in texts_of(rows):
            trie.children = trie.children if share else {}
            path = trie.add(text.input_ids)
            paths.append(path)
            for node, label in zip(path, text.labels[1:], strict=False):
                if label != IGNORED:
                    states.append(node)
                    labels.append(label)
        spans.append((first, len(trie.ids)))
        loss_spans.append((first_loss, len(states)))
    buckets = [_bucket(group, device) for group in _by_length(paths)]
    home, repeated = _home(buckets, len(trie.ids))
    return Batch(
        ids=torch.tensor(trie.ids, device=device),
        positions=torch.tensor(trie.positions, device=device),
        tokens=Tokens(tuple(spans), padding(spans, device)),
        buckets=tuple(buckets),
        home=home,
        repeated=repeated,
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


def _by_length(paths: Sequence[list[int]]) -> list[list[list[int]]]:
    groups: list[list[list[int]]] = []
    for path in sorted(paths, key=len, reverse=True):
        longest = len(groups[-1][0]) if groups else 0
        if not groups or (longest > SHORT and len(path) < BUCKET * longest):
            groups.append([])
        groups[-1].append(path)
    return groups


def _bucket(paths: Sequence[list[int]], device: torch.device) -> Bucket:
    longest = len(paths[0])
    return Bucket(torch.tensor([path + path[:1] * (longest - len(path)) for path in paths], device=device))


def _home(buckets: Sequence[Bucket], nodes: int) -> tuple[torch.Tensor, bool]:
    """The first place of each node (padding stands behind a row's own first node), and whether one has several."""
    flat = torch.cat([bucket.nodes.flatten() for bucket in buckets])
    places = torch.arange(len(flat), device=flat.device)
    home = torch.full((nodes,), len(flat), device=flat.device)
    home.scatter_reduce_(0, flat, places, "amin")
    padding = sum(int((bucket.nodes[:, 1:] == bucket.nodes[:, :1]).sum()) for bucket in buckets)
    return home, len(flat) - padding > nodes
