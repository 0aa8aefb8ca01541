"""Causal attention over rows whose tokens lie flat, and its gradient.

Each row gathers the queries, keys and values of its nodes. Short rows multiply explicit score matrices in
float32: on a CPU that is several times faster backwards than the flash kernel, and more exact than in
bfloat16. Long rows, and CUDA, use PyTorch's scaled dot product attention.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from tunesmith.train.slots.batch import Batch, Bucket

EXPLICIT_UP_TO = 640  # tokens a row; the score matrices grow with the square


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


@dataclass(frozen=True)
class Rows:
    """Index of one bucket: which head of which node stands where.

    `query` lists rows of a [nodes · all heads, width] matrix in the order [rows, query heads, tokens],
    `key` and `value` in the order [rows, key-value heads, tokens]. `out` does as `query` for a matrix
    [nodes · query heads, width]; `used` [rows, 1, tokens, 1] is 1 where a node's output is taken from.
    """

    shape: tuple[int, int]
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    out: torch.Tensor
    used: torch.Tensor


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


@dataclass(frozen=True)
class Saved:
    """What the backward pass of one bucket needs: q, k, v, probabilities and the output, or an autograd graph."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    probabilities: torch.Tensor | None
    out: torch.Tensor


def index(batch: Batch, heads: Heads, dtype: torch.dtype) -> Index:
    """The index of a batch, the same for all layers; `dtype` is that of the heads."""
    device = batch.ids.device
    query, key_value = torch.arange(heads.query, device=device), torch.arange(heads.key_value, device=device)
    rows: list[Rows] = []
    out_places: list[torch.Tensor] = []
    key_places: list[torch.Tensor] = []
    at = 0
    for bucket in batch.buckets:
        rows.append(_rows(bucket, batch, heads, at, dtype))
        at += bucket.nodes.numel()
        count, length = bucket.nodes.shape
        row, position = torch.arange(count, device=device)[:, None], torch.arange(length, device=device)
        before = sum(place.shape[0] * place.shape[1] for place in out_places)
        first = (before * heads.query) + (row[..., None] * heads.query + query) * length
        out_places.append(first + position[:, None])
        both = torch.arange(2, device=device)[:, None] * count * heads.key_value + key_value
        first = (before * 2 * heads.key_value) + (row[..., None, None] * heads.key_value + both) * length
        key_places.append((first + position[:, None, None]).flatten(2))
    all_out = torch.cat([places.flatten(0, 1) for places in out_places])
    all_key = torch.cat([places.flatten(0, 1) for places in key_places])
    bags = _bags(batch, all_key) if batch.repeated else None
    return Index(tuple(rows), all_out[batch.home].flatten(), all_key[batch.home].flatten(), bags)


def _rows(bucket: Bucket, batch: Batch, heads: Heads, at: int, dtype: torch.dtype) -> Rows:
    nodes = bucket.nodes
    count, length = nodes.shape
    head = torch.arange(heads.all, device=nodes.device)[:, None]
    places = nodes[:, None, :] * heads.all + head
    ends = (heads.query, heads.query + heads.key_value)
    out = nodes[:, None, :] * heads.query + head[: heads.query]
    here = at + torch.arange(count * length, device=nodes.device).view(count, length)
    used = (batch.home[nodes] == here)[:, None, :, None]
    return Rows(
        shape=(count, length),
        query=places[:, : ends[0]].flatten(),
        key=places[:, ends[0] : ends[1]].flatten(),
        value=places[:, ends[1] :].flatten(),
        out=out.flatten(),
        used=used.to(dtype),
    )


def _bags(batch: Batch, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All places of each head of each node, and where each one's list begins."""
    nodes = torch.cat([bucket.nodes.flatten() for bucket in batch.buckets])
    real = torch.cat([_real(bucket) for bucket in batch.buckets])
    nodes, places = nodes[real], places[real]
    heads = places.shape[1]
    keys = (nodes[:, None] * heads + torch.arange(heads, device=nodes.device)).flatten()
    order = keys.argsort(stable=True)
    counts = torch.bincount(keys, minlength=len(batch.ids) * heads)
    return places.flatten()[order], counts.cumsum(0) - counts


def _real(bucket: Bucket) -> torch.Tensor:
    real = bucket.nodes != bucket.nodes[:, :1]
    real[:, 0] = True
    return real.flatten()


def forward(heads: torch.Tensor, index: Index, shape: Heads) -> tuple[torch.Tensor, list[Saved]]:
    """Attention output [nodes · query heads, width] from rotated heads [nodes · all heads, width]."""
    saved = []
    for rows in index.rows:
        q, k, v = (heads.index_select(0, part) for part in (rows.query, rows.key, rows.value))
        saved.append(_attend(q, k, v, rows.shape, shape))
    out = torch.cat([part.out.reshape(-1, shape.width) for part in saved]) if len(saved) > 1 else saved[0].out
    return out.reshape(-1, shape.width).index_select(0, index.take_query), saved


def backward(gradient: torch.Tensor, saved: list[Saved], index: Index, shape: Heads) -> torch.Tensor:
    """Gradient of the rotated heads [nodes, all heads, width] from that of the output [nodes · query heads, width]."""
    queries, keys = [], []
    for rows, part in zip(index.rows, saved, strict=True):
        count, length = rows.shape
        above = gradient.index_select(0, rows.out).view(count, shape.query, length, shape.width)
        dq, dkv = _attend_backward(above.mul_(rows.used), part, rows.shape, shape)
        queries.append(dq.view(-1, shape.width))
        keys.append(dkv.view(-1, shape.width))
    dq, dkv = torch.cat(queries), torch.cat(keys)
    nodes = len(index.take_query) // shape.query
    dq = dq.index_select(0, index.take_query).view(nodes, shape.query, shape.width)
    if index.bags is None:
        dkv = dkv.index_select(0, index.take_key)
    else:
        dkv = functional.embedding_bag(index.bags[0], dkv, index.bags[1], mode="sum")
    return torch.cat([dq, dkv.view(nodes, -1, shape.width)], dim=1)


def explicit(device: torch.device, length: int) -> bool:
    """Whether rows of so many tokens use explicit score matrices."""
    return device.type == "cpu" and length <= EXPLICIT_UP_TO


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: tuple[int, int], shape: Heads) -> Saved:
    count, length = rows
    if not explicit(q.device, length):
        return _attend_fused(q, k, v, rows, shape)
    groups = shape.query // shape.key_value
    q = q.view(count * shape.key_value, groups * length, shape.width)
    k = k.view(count * shape.key_value, length, shape.width)
    v = v.view(count * shape.key_value, length, shape.width)
    mask = torch.full((length, length), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
    scores = torch.baddbmm(mask.repeat(groups, 1), q, k.transpose(1, 2), alpha=shape.width**-0.5)
    probabilities = torch.softmax(scores, -1)
    return Saved(q, k, v, probabilities, torch.bmm(probabilities, v))


def _attend_fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: tuple[int, int], shape: Heads) -> Saved:
    count, length = rows
    q = q.view(count, shape.query, length, shape.width)
    k = k.view(count, shape.key_value, length, shape.width)
    v = v.view(count, shape.key_value, length, shape.width)
    with torch.enable_grad():
        q, k, v = (part.detach().requires_grad_() for part in (q, k, v))
        grouped = shape.query != shape.key_value
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    return Saved(q, k, v, None, out)


def _attend_backward(
    gradient: torch.Tensor, saved: Saved, rows: tuple[int, int], shape: Heads
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of q [rows, query heads, tokens, width] and of k and v [2, rows, key-value heads, tokens, width]."""
    if saved.probabilities is None:
        dq, dk, dv = torch.autograd.grad(saved.out, (saved.q, saved.k, saved.v), gradient)
        return dq.contiguous(), torch.stack([dk, dv])
    p, scale = saved.probabilities, shape.width**-0.5
    above = gradient.view_as(saved.out)
    both = above.new_empty(2, *saved.k.shape)
    torch.bmm(p.transpose(1, 2), above, out=both[1])
    inner = (above * saved.out).sum(-1, keepdim=True)
    scores = torch.bmm(above, saved.v.transpose(1, 2)).sub_(inner).mul_(p).mul_(scale)
    torch.bmm(scores.transpose(1, 2), saved.q, out=both[0])
    return torch.bmm(scores, saved.k), both
