"""Linear layers that read the same input, with the low-rank products of several slots on top.

Forward, for the rows of slot k:   y = x Wᵀ + (x Aₖᵀ) Bₖᵀ        (Hu et al., 2021; the scale is inside B)
Backward, given dy:                dh = dy Bₖ,  dAₖ = dhᵀ x,  dBₖ = dyᵀ h,  dx = dy W + dh Aₖ

The products with the frozen W run over the rows of all slots at once; those with A and B touch the
rows of one slot only, so that a neighbour's infinities stay its own.
"""

import torch

from tunesmith.train.slots import padded
from tunesmith.train.slots.batch import Tokens
from tunesmith.train.slots.frozen import Frozen
from tunesmith.train.slots.stack import Adapters

Saved = tuple[torch.Tensor, torch.Tensor]
"""The input of a group with adapters, and x Aᵀ [tokens, targets · rank]; padded or not."""


def forward(
    frozen: Frozen, adapters: Adapters | None, x: torch.Tensor, tokens: Tokens
) -> tuple[torch.Tensor, Saved | None]:
    """Outputs [tokens, all outputs] of a group's layers for x [tokens, inputs], and what their backward pass needs."""
    whole = frozen.forward(x)
    if adapters is None:
        return whole, None
    if tokens.padding is not None:
        return whole, padded.forward(adapters, frozen.split(whole), x, tokens.padding)
    hidden = x.new_empty(len(x), adapters.a.shape[1])
    slots = zip(*(tokens.split(part) for part in (x, hidden, whole)), strict=True)
    for k, (own_x, own_hidden, own_whole) in enumerate(slots):
        torch.mm(own_x, adapters.a[k].T, out=own_hidden)
        outputs = frozen.split(own_whole)
        for n, part in enumerate(own_hidden.split(adapters.rank, dim=1)):
            outputs[adapters.members[n]].addmm_(part, adapters.b[n][k].T)
    return whole, (x, hidden)


def adapter_gradients(
    frozen: Frozen, adapters: Adapters | None, gradient: torch.Tensor, saved: Saved | None, tokens: Tokens
) -> torch.Tensor | None:
    """Write the gradients of A and B into their stack; returns that of x Aᵀ, for `input_gradient`.

    `gradient` is that of the outputs, [tokens, all outputs]; `saved` is what `forward` gave.
    """
    if adapters is None or saved is None:
        return None
    if tokens.padding is not None:
        return padded.adapter_gradients(adapters, frozen.split(gradient), saved, tokens.padding)
    above = torch.empty_like(saved[1])
    slots = zip(*(tokens.split(part) for part in (*saved, above, gradient)), strict=True)
    for k, (own_x, own_hidden, own_above, own_gradient) in enumerate(slots):
        gradients, columns = frozen.split(own_gradient), own_above.split(adapters.rank, dim=1)
        for n, part in enumerate(own_hidden.split(adapters.rank, dim=1)):
            one = gradients[adapters.members[n]]
            torch.mm(one, adapters.b[n][k], out=columns[n])
            torch.mm(one.T, part, out=adapters.b_gradient[n][k])
        torch.mm(own_above.T, own_x, out=adapters.a_gradient[k])
    return above


def input_gradient(
    frozen: Frozen, adapters: Adapters | None, gradient: torch.Tensor, above: torch.Tensor | None, tokens: Tokens
) -> torch.Tensor:
    """Gradient of the input, [tokens, inputs]; `above` is what `adapter_gradients` gave."""
    total = frozen.backward(gradient)
    if adapters is None or above is None:
        return total
    if tokens.padding is not None:
        return total.add_(tokens.padding.back(torch.bmm(above, adapters.a)))
    for k, (own, own_above) in enumerate(zip(tokens.split(total), tokens.split(above), strict=True)):
        own.addmm_(own_above, adapters.a[k])
    return total
