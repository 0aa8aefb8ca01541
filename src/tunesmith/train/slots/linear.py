"""Linear layers that read the same input, with the low-rank products of several slots on top.

Forward, for the rows of slot k:   y = x Wᵀ + (x Aₖᵀ) Bₖᵀ        (Hu et al., 2021; the scale is inside B)
Backward, given dy:                dh = dy Bₖ,  dAₖ = dhᵀ x,  dBₖ = dyᵀ h,  dx = dy W + dh Aₖ

The products with the frozen W run over the rows of all slots at once; those with A and B touch the
rows of one slot only, so that a neighbour's infinities stay its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from tunesmith.train.slots import padded
from tunesmith.train.slots.batch import Tokens
from tunesmith.train.slots.stack import Adapters

Saved = tuple[torch.Tensor, torch.Tensor]
"""The input of a group with adapters, and x Aᵀ [tokens, targets · rank]; padded or not."""


@dataclass(frozen=True)
class Frozen:
    """The base's weights [outputs, inputs] and biases of a group, by member."""

    weights: tuple[torch.Tensor, ...]
    biases: tuple[torch.Tensor | None, ...]


def forward(
    frozen: Frozen, adapters: Adapters | None, x: torch.Tensor, tokens: Tokens
) -> tuple[list[torch.Tensor], Saved | None]:
    """Outputs of a group's layers for x [tokens, inputs], and what their backward pass needs."""
    outputs = [functional.linear(x, weight, bias) for weight, bias in zip(frozen.weights, frozen.biases, strict=True)]
    if adapters is None:
        return outputs, None
    if tokens.padding is not None:
        return outputs, padded.forward(adapters, outputs, x, tokens.padding)
    hidden = x.new_empty(len(x), adapters.a.shape[1])
    rank = adapters.rank
    for k, (start, end) in enumerate(tokens.spans):
        torch.mm(x[start:end], adapters.a[k].T, out=hidden[start:end])
        for n, member in enumerate(adapters.members):
            part = hidden[start:end, n * rank : (n + 1) * rank]
            outputs[member][start:end].addmm_(part, adapters.b[n][k].T)
    return outputs, (x, hidden)


def adapter_gradients(
    adapters: Adapters | None, gradients: Sequence[torch.Tensor], saved: Saved | None, tokens: Tokens
) -> torch.Tensor | None:
    """Write the gradients of A and B into their stack; returns that of x Aᵀ, for `input_gradient`.

    `gradients` are those of the outputs; `saved` is what `forward` gave.
    """
    if adapters is None or saved is None:
        return None
    if tokens.padding is not None:
        return padded.adapter_gradients(adapters, gradients, saved, tokens.padding)
    x, hidden = saved
    rank = adapters.rank
    above = torch.empty_like(hidden)
    for k, (start, end) in enumerate(tokens.spans):
        for n, member in enumerate(adapters.members):
            columns = slice(n * rank, (n + 1) * rank)
            gradient = gradients[member][start:end]
            above[start:end, columns] = gradient @ adapters.b[n][k]
            torch.mm(gradient.T, hidden[start:end, columns], out=adapters.b_gradient[n][k])
        torch.mm(above[start:end].T, x[start:end], out=adapters.a_gradient[k])
    return above


def input_gradient(
    frozen: Frozen,
    adapters: Adapters | None,
    gradients: Sequence[torch.Tensor],
    above: torch.Tensor | None,
    tokens: Tokens,
) -> torch.Tensor:
    """Gradient of the input, [tokens, inputs]; `above` is what `adapter_gradients` gave."""
    total = gradients[0] @ frozen.weights[0]
    for gradient, weight in zip(gradients[1:], frozen.weights[1:], strict=True):
        total.addmm_(gradient, weight)
    if adapters is None or above is None:
        return total
    if tokens.padding is not None:
        return total.add_(tokens.padding.back(torch.bmm(above, adapters.a)))
    for k, (start, end) in enumerate(tokens.spans):
        total[start:end].addmm_(above[start:end], adapters.a[k])
    return total
