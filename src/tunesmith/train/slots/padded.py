"""The low-rank products of several small slots as batched products.

A product for each slot costs more in calls than in arithmetic when slots bring few tokens. So tokens are
gathered to [slots, longest], behind a slot's end its own first token again, and taken back afterwards. What stands
behind an end is never taken, and its gradient is set to zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from tunesmith.train.slots.stack import Adapters

MOST_TOKENS = 192  # a slot, on average; beyond, gathering costs one thread more than the calls


@dataclass(frozen=True)
class Padding:
    """Where each token of [slots, longest] comes from, where each token went, and which are real."""

    gather: torch.Tensor
    take: torch.Tensor
    real: torch.Tensor
    slots: int

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, width] as [slots, longest, width]."""
        return x.index_select(0, self.gather).view(self.slots, -1, x.shape[1])

    def back(self, padded: torch.Tensor) -> torch.Tensor:
        """[slots, longest, width] as [tokens, width]."""
        return padded.view(-1, padded.shape[2]).index_select(0, self.take)


def padding(lengths: Sequence[int], device: torch.device) -> Padding | None:
    """How to pad slots that bring so many tokens; None where that does not pay."""
    if len(lengths) < 2 or sum(lengths) > MOST_TOKENS * len(lengths):
        return None
    longest, starts = max(lengths), [end - length for end, length in zip(accumulate(lengths), lengths, strict=True)]
    pairs = list(zip(starts, lengths, strict=True))
    gather = [start + (n if n < length else 0) for start, length in pairs for n in range(longest)]
    take = [k * longest + n for k, length in enumerate(lengths) for n in range(length)]
    real = [[n < length for n in range(longest)] for length in lengths]
    return Padding(
        gather=torch.tensor(gather, device=device),
        take=torch.tensor(take, device=device),
        real=torch.tensor(real, device=device)[..., None],
        slots=len(lengths),
    )


def forward(
    adapters: Adapters, outputs: Sequence[torch.Tensor], x: torch.Tensor, padding: Padding
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the low-rank products to `outputs`; returns padded x, and x Aᵀ [slots, longest, targets · rank]."""
    x = padding.spread(x)
    hidden = torch.bmm(x, adapters.a.transpose(1, 2))
    for n, member in enumerate(adapters.members):
        part = hidden[..., n * adapters.rank : (n + 1) * adapters.rank]
        outputs[member].add_(padding.back(torch.bmm(part, adapters.b[n].transpose(1, 2))))
    return x, hidden


def adapter_gradients(
    adapters: Adapters,
    gradients: Sequence[torch.Tensor],
    saved: tuple[torch.Tensor, torch.Tensor],
    padding: Padding,
) -> torch.Tensor:
    """Write the gradients of A and B into their stack; returns that of x Aᵀ, padded."""
    x, hidden = saved
    above = torch.empty_like(hidden)
    for n, member in enumerate(adapters.members):
        columns = slice(n * adapters.rank, (n + 1) * adapters.rank)
        gradient = padding.spread(gradients[member]).mul_(padding.real)
        above[..., columns] = torch.bmm(gradient, adapters.b[n])
        torch.bmm(gradient.transpose(1, 2), hidden[..., columns], out=adapters.b_gradient[n])
    torch.bmm(above.transpose(1, 2), x, out=adapters.a_gradient)
    return above
