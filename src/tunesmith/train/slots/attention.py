"""Causal attention over rows whose tokens lie flat, and its gradient.

Each row gathers the queries, keys and values of its nodes. Short rows multiply explicit score matrices in
float32: on a CPU that is several times faster backwards than the flash kernel, and more exact than in
bfloat16. Long rows, and CUDA, use PyTorch's scaled dot product attention.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from tunesmith.models.device import cpu_has_amx
from tunesmith.train.slots.index import Heads, Index, Rows


@dataclass(frozen=True)
class Saved:
    """What the backward pass of one bucket needs: q, k, v, probabilities and the output, or an autograd graph."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    probabilities: torch.Tensor | None
    out: torch.Tensor


@contextlib.contextmanager
def onednn_products(*, pays: bool) -> Iterator[None]:
    """Within, oneDNN computes float32 products, where it is the faster one and the CPU has no AMX.

    On an AMD EPYC, MKL takes twice as long. PyTorch hands the products over once their factors may be rounded to
    bfloat16, which oneDNN does on AMX only. The setting is the process's own: not for two threads at once.
    """
    backend: Any = torch.backends.mkldnn  # its stub knows no `matmul`
    before = backend.matmul.fp32_precision
    if pays and not cpu_has_amx():
        backend.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        backend.matmul.fp32_precision = before


def forward(heads: torch.Tensor, index: Index, shape: Heads) -> tuple[torch.Tensor, list[Saved]]:
    """Attention output [nodes · query heads, width] from rotated heads [nodes · all heads, width]."""
    saved = []
    for rows in index.rows:
        q, k, v = (heads.index_select(0, part) for part in (rows.query, rows.key, rows.value))
        saved.append(_attend(q, k, v, rows, shape))
    out = torch.cat([part.out.reshape(-1, shape.width) for part in saved]) if len(saved) > 1 else saved[0].out
    return out.reshape(-1, shape.width).index_select(0, index.take_query), saved


def backward(gradient: torch.Tensor, saved: list[Saved], index: Index, shape: Heads) -> torch.Tensor:
    """Gradient of the rotated heads [nodes, all heads, width] from that of the output [nodes · query heads, width]."""
    query_gradients, key_gradients = [], []
    for rows, part in zip(index.rows, saved, strict=True):
        count, queries, _ = rows.shape
        above = gradient.index_select(0, rows.out).view(count, shape.query, queries, shape.width)
        dq, dkv = _attend_backward(above.mul_(rows.used), part, shape)
        query_gradients.append(dq.view(-1, shape.width))
        key_gradients.append(dkv.view(-1, shape.width))
    dq, dkv = torch.cat(query_gradients), torch.cat(key_gradients)
    nodes = len(index.take_query) // shape.query
    dq = dq.index_select(0, index.take_query).view(nodes, shape.query, shape.width)
    if index.bags is None:
        dkv = dkv.index_select(0, index.take_key)
    else:
        dkv = functional.embedding_bag(index.bags[0], dkv, index.bags[1], mode="sum")
    return torch.cat([dq, dkv.view(nodes, -1, shape.width)], dim=1)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows, shape: Heads) -> Saved:
    if rows.mask is None:
        return _attend_fused(q, k, v, rows.shape, shape)
    count, queries, length = rows.shape
    q = q.view(count * shape.key_value, shape.group * queries, shape.width)
    k = k.view(count * shape.key_value, length, shape.width)
    v = v.view(count * shape.key_value, length, shape.width)
    scores = torch.baddbmm(rows.mask, q, k.transpose(1, 2), alpha=shape.width**-0.5)
    probabilities = torch.softmax(scores, -1)
    return Saved(q, k, v, probabilities, torch.bmm(probabilities, v))


def _attend_fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: tuple[int, int, int], shape: Heads) -> Saved:
    count, queries, length = rows
    q = q.view(count, shape.query, queries, shape.width)
    k = k.view(count, shape.key_value, length, shape.width)
    v = v.view(count, shape.key_value, length, shape.width)
    with torch.enable_grad():
        q, k, v = (part.detach().requires_grad_() for part in (q, k, v))
        grouped = shape.query != shape.key_value
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    return Saved(q, k, v, None, out)


def _attend_backward(gradient: torch.Tensor, saved: Saved, shape: Heads) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of q [rows, query heads, queries, width] and of k and v [2, rows, key-value heads, keys, width]."""
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
