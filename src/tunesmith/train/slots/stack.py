"""The adapters of one pass side by side, in the precision that the base computes in.

Master weights are float32 and belong to the slots. For a pass they are copied into a stack, scaled and
rounded to the base's precision and padded with zeros to the highest rank, and the gradients come back the
same way. Padding is exact: zero rows of A and columns of B stay without effect, and their gradients are
not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tunesmith.train.slots.layout import Group, GroupViews, Layout


@dataclass(frozen=True)
class Member:
    """A slot in a stack: its layout, flat weights [size], flat gradient [size], and alpha / rank."""

    layout: Layout
    weights: torch.Tensor
    gradient: torch.Tensor
    scale: float


class Stack:
    """Compute copies and gradients of K adapters with the same targets, as [K, …] blocks."""

    def __init__(self, members: Sequence[Member], dtype: torch.dtype) -> None:
        self.members = members
        self.layout = members[0].layout.with_rank(max(member.layout.rank for member in members))
        size = len(members) * self.layout.size
        first = members[0].weights
        ragged = any(member.layout.rank != self.layout.rank for member in members)
        create = torch.zeros if ragged else torch.empty  # zeros pad the lower ranks
        self.weights = create(size, dtype=dtype, device=first.device)
        self.gradients = torch.empty_like(self.weights)
        groups = zip(
            self.layout.groups,
            self.layout.views(self.weights, len(members)),
            self.layout.views(self.gradients, len(members)),
            strict=True,
        )
        self.groups = {(group.layer, group.kind): Adapters(group, own, grads) for group, own, grads in groups}
        self._load()

    def _load(self) -> None:
        """Copy the masters in, B times its scale."""
        if len(self.members) == 1:
            self._round(self.members[0], self.weights)
            return
        ours, theirs = [], []
        for k, member in enumerate(self.members):
            own = torch.empty_like(member.weights, dtype=self.weights.dtype)
            self._round(member, own)
            ours += self._blocks(self.weights, k, member.layout.rank)
            theirs += _flat_blocks(member.layout.views(own))
        torch._foreach_copy_(ours, theirs)

    @staticmethod
    def _round(member: Member, out: torch.Tensor) -> None:
        """Weights in the stack's precision, B times its scale."""
        cut = member.layout.a_size
        out[:cut].copy_(member.weights[:cut])
        torch.mul(member.weights[cut:], member.scale, out=out[cut:])

    def collect(self) -> None:
        """Add the gradients of a pass to those of the slots."""
        for k, member in enumerate(self.members):
            cut = member.layout.a_size
            own = self.gradients
            if len(self.members) > 1:
                own = torch.empty_like(member.weights, dtype=own.dtype)
                blocks = _flat_blocks(member.layout.views(own))
                torch._foreach_copy_(blocks, self._blocks(self.gradients, k, member.layout.rank))
            member.gradient[:cut].add_(own[:cut])
            member.gradient[cut:].add_(own[cut:], alpha=member.scale)

    def _blocks(self, flat: torch.Tensor, k: int, rank: int) -> list[torch.Tensor]:
        """The blocks of adapter `k` up to its own rank."""
        views = self.layout.views(flat, len(self.members))
        return [block for group in views for block in (group.a[k, :, :rank], *(b[k, :, :rank] for b in group.b))]


class Adapters:
    """One group of a stack: A as [K, targets · rank, inputs], each target's B as [K, outputs, rank]."""

    def __init__(self, group: Group, own: GroupViews, gradients: GroupViews) -> None:
        self.members = tuple(target.member for target in group.targets)
        self.rank = own.a.shape[2]
        self.a, self.b = own.a.flatten(1, 2), own.b
        self.a_gradient, self.b_gradient = gradients.a.flatten(1, 2), gradients.b


def _flat_blocks(views: Sequence[GroupViews]) -> list[torch.Tensor]:
    return [block for group in views for block in (group.a[0], *(b[0] for b in group.b))]
