"""Where the matrices of an adapter lie in one flat vector.

An adapter adds B (A x) · alpha / rank to each targeted linear layer. Layers that read the same input (query,
key and value; gate and up) form a group, whose A matrices lie next to each other and act as one. All A
come first, then all B. For K adapters at once, each block holds its K copies side by side, so that
the vector of one adapter is the case K = 1.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import torch

MEMBERS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The linear layers of a block by group, in the order in which a block runs them."""


@dataclass(frozen=True)
class Target:
    """A linear layer with an adapter: its name in the model, its place in its group, and its shape."""

    name: str
    member: int
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Group:
    """The targeted layers of one block that read the same input."""

    layer: int
    kind: str
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class GroupViews:
    """A group's part of a vector: A is [K, targets, rank, inputs], each B [K, outputs, rank]."""

    a: torch.Tensor
    b: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Layout:
    """Groups and rank, which fix the vector."""

    groups: tuple[Group, ...]
    rank: int

    @cached_property
    def a_size(self) -> int:
        """How many numbers all A matrices have."""
        return sum(self.rank * target.inputs for group in self.groups for target in group.targets)

    @cached_property
    def size(self) -> int:
        """How many numbers an adapter has."""
        return self.a_size + sum(self.rank * target.outputs for group in self.groups for target in group.targets)

    @property
    def names(self) -> list[str]:
        """The targeted layers' names."""
        return [target.name for group in self.groups for target in group.targets]

    def with_rank(self, rank: int) -> "Layout":
        """The same groups at another rank."""
        return Layout(self.groups, rank)

    def views(self, flat: torch.Tensor, copies: int = 1) -> list[GroupViews]:
        """The parts of `flat` [copies · size], group by group; writing to them writes to it."""
        views, a_at, b_at = [], 0, copies * self.a_size
        for group in self.groups:
            shape = (copies, len(group.targets), self.rank, group.targets[0].inputs)
            a = flat[a_at : a_at + math.prod(shape)].view(shape)
            a_at += a.numel()
            b = []
            for target in group.targets:
                part = flat[b_at : b_at + copies * target.outputs * self.rank]
                b.append(part.view(copies, target.outputs, self.rank))
                b_at += part.numel()
            views.append(GroupViews(a, tuple(b)))
        return views

    def named(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """One adapter's matrices by the names PEFT gives them (without prefix and adapter name)."""
        named = {}
        for group, views in zip(self.groups, self.views(flat), strict=True):
            for n, target in enumerate(group.targets):
                named[f"{target.name}.lora_A.weight"] = views.a[0, n]
                named[f"{target.name}.lora_B.weight"] = views.b[n][0]
        return named


def layout_of(shapes: dict[str, tuple[int, int]], targets: Collection[str], rank: int) -> Layout:
    """The layout of an adapter on `targets`, names of layers whose (outputs, inputs) are in `shapes`.

    Names look like `model.layers.3.mlp.up_proj`; the groups follow the blocks in order.
    """
    wanted, groups = set(targets), []
    layers = sorted({int(name.split(".")[2]) for name in wanted})
    for layer in layers:
        for kind, members in MEMBERS.items():
            found = []
            for member, suffix in enumerate(members):
                name = f"model.layers.{layer}.{suffix}"
                if name in wanted:
                    outputs, inputs = shapes[name]
                    found.append(Target(name, member, inputs, outputs))
            if found:
                groups.append(Group(layer, kind, tuple(found)))
    return Layout(tuple(groups), rank)
