"""Where attention finds the heads of each row's nodes, and where each node finds its output and gradients again."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tunesmith.train.slots.rows import Bucket, explicit


@dataclass(frozen=True)
class Heads:
    """Numbers of query and key-value heads, and their width."""

    query: int
    key_value: int
    width: int

    @property
    def all(self) -> int:
        """Heads that a token has: query, key and value."""
        return self.query + 2 * self.key_value

    @property
    def group(self) -> int:
        """Query heads that read the same keys and values."""
        return self.query // self.key_value


@dataclass(frozen=True)
class Rows:
    """Index of one bucket: which head of which node stands where. `shape` is its rows, queries and keys.

    `query` lists rows of a [nodes · all heads, width] matrix in the order [rows, query heads, queries],
    `key` and `value` in the order [rows, key-value heads, keys]. `out` does as `query` for a matrix
    [nodes · query heads, width]; `used` [rows, 1, queries, 1] is 1 at the place of a node's output, else 0.
    `mask` [rows · key-value heads, query heads of each · queries, keys] is −∞ where a key follows a query; None for
    rows whose scores are not computed explicitly.
    """

    shape: tuple[int, int, int]
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    out: torch.Tensor
    used: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True)
class Index:
    """How nodes and the rows of all buckets map onto each other.

    `take_query` [nodes · query heads] says where each node's output stands in the outputs of all
    buckets; `take_key` does as much for keys and values, [nodes · 2 · key-value heads]. For nodes that stand in
    several rows, `bags` lists all places, bag after bag, and where each bag begins.
    """

    rows: tuple[Rows, ...]
    take_query: torch.Tensor
    take_key: torch.Tensor
    bags: tuple[torch.Tensor, torch.Tensor] | None


def index_of(buckets: Sequence[Bucket], nodes: int, heads: Heads, dtype: torch.dtype) -> Index:
    """The index of a batch of so many nodes, the same for all layers; `dtype` is that of the heads."""
    asked = [bucket.nodes.gather(1, bucket.asked) for bucket in buckets]
    home = _first(asked, [bucket.asked < bucket.lengths for bucket in buckets], nodes)
    out_places = _places([tuple(part.shape) for part in asked], heads.query, parts=1, device=home.device)
    shapes = [tuple(bucket.nodes.shape) for bucket in buckets]
    key_places = _places(shapes, heads.key_value, parts=2, device=home.device)
    real = [bucket.real for bucket in buckets]
    first = _first([bucket.nodes for bucket in buckets], real, nodes)
    rows, before = [], 0
    for bucket, part in zip(buckets, asked, strict=True):
        here = before + torch.arange(part.numel(), device=part.device).view(part.shape)
        rows.append(_rows(bucket, part, (home[part] == here).to(dtype), heads))
        before += part.numel()
    several = sum(int(part.sum()) for part in real) > nodes
    bags = _bags(buckets, real, key_places, nodes) if several else None
    return Index(tuple(rows), out_places[home].flatten(), key_places[first].flatten(), bags)


def _first(parts: Sequence[torch.Tensor], real: Sequence[torch.Tensor], nodes: int) -> torch.Tensor:
    """The first real place of each node, [nodes], in `parts` laid end to end."""
    flat, kept = (torch.cat([part.flatten() for part in each]) for each in (parts, real))
    places = torch.arange(len(flat), device=flat.device)
    return places.new_full((nodes,), len(flat)).scatter_reduce_(0, flat[kept], places[kept], "amin")


def _places(shapes: Sequence[tuple[int, ...]], heads: int, *, parts: int, device: torch.device) -> torch.Tensor:
    """Where the heads of each place of all buckets stand, [places, parts · heads].

    A bucket's matrix is [parts, rows, heads, positions], one bucket's after the other; parts are keys and values.
    """
    found, before = [], 0
    for count, length in shapes:
        row, position = torch.arange(count, device=device)[:, None, None], torch.arange(length, device=device)
        part, head = torch.arange(parts, device=device)[:, None], torch.arange(heads, device=device)
        first = ((part * count * heads + head)[None, None] + (row * heads)[..., None]) * length
        found.append((before + first + position[None, :, None, None]).view(count * length, parts * heads))
        before += parts * count * heads * length
    return torch.cat(found)


def _rows(bucket: Bucket, asked: torch.Tensor, used: torch.Tensor, heads: Heads) -> Rows:
    (count, length), device = bucket.nodes.shape, asked.device
    head = torch.arange(heads.all, device=device)[:, None]
    ends = (heads.query, heads.query + heads.key_value)
    mask = None
    if explicit(device, length):
        later = torch.arange(length, device=device) > bucket.asked[..., None]
        mask = torch.zeros(later.shape, dtype=used.dtype, device=device).masked_fill_(later, float("-inf"))
        mask = mask[:, None, None].expand(-1, heads.key_value, heads.group, -1, -1)
        mask = mask.reshape(count * heads.key_value, heads.group * bucket.queries, length)
    places = bucket.nodes[:, None, :] * heads.all
    return Rows(
        shape=(count, bucket.queries, length),
        query=(asked[:, None, :] * heads.all + head[: ends[0]]).flatten(),
        key=(places + head[ends[0] : ends[1]]).flatten(),
        value=(places + head[ends[1] :]).flatten(),
        out=(asked[:, None, :] * heads.query + head[: heads.query]).flatten(),
        used=used[:, None, :, None],
        mask=mask,
    )


def _bags(
    buckets: Sequence[Bucket], real: Sequence[torch.Tensor], places: torch.Tensor, nodes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """All places of each head of each node, and where each one's list begins."""
    kept = torch.cat([part.flatten() for part in real])
    flat, places = torch.cat([bucket.nodes.flatten() for bucket in buckets])[kept], places[kept]
    heads = places.shape[1]
    keys = (flat[:, None] * heads + torch.arange(heads, device=flat.device)).flatten()
    order = keys.argsort(stable=True)
    counts = torch.bincount(keys, minlength=nodes * heads)
    return places.flatten()[order], counts.cumsum(0) - counts
