"""What a slot minimises: a function of the negative log-likelihoods of its rows' labelled tokens.

The network computes these, and takes back how fast the loss rises with each of them; what lies between is an
objective's. So the backward pass is the same for all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from tunesmith.config.method import DpoConfig
from tunesmith.train.encode import Labelled
from tunesmith.train.pairs import Pair
from tunesmith.train.preference import both, pair_figures
from tunesmith.train.recorder import TrainingData
from tunesmith.train.reference import Asked, Reference
from tunesmith.train.slots.batch import Span
from tunesmith.train.slots.passes import Key

Ask = Callable[[Sequence[Asked]], list[float]]
"""Gives the summed log-probability in nats of each reply under the policy that a training begins with."""


@dataclass(frozen=True)
class Judged:
    """Some rows under an objective: figures summed over them, `loss` among them, and how that one rises.

    `slope` [losses] is the gradient of the summed loss with respect to each negative log-likelihood.
    """

    sums: dict[str, torch.Tensor]
    slope: torch.Tensor


class Objective(Protocol):
    """What a slot minimises: a loss that is a mean over parts of its rows."""

    def prepare(self, data: TrainingData, ask: Ask, *, dtype: torch.dtype) -> None:
        """Learn what it takes of the policy that the training begins with; `ask` computes in `dtype`."""

    def size(self, rows: Sequence[Any]) -> int:
        """Over how many parts the loss of some rows is a mean."""

    def judge(self, losses: torch.Tensor, rows: Sequence[Any]) -> Judged:
        """Judge rows by the negative log-likelihoods [losses] of their labelled tokens, text after text."""


class TokenLoss:
    """The mean over all supervised tokens."""

    def prepare(self, data: TrainingData, ask: Ask, *, dtype: torch.dtype) -> None:
        """It takes nothing."""

    def size(self, rows: Sequence[Labelled]) -> int:
        """The supervised tokens."""
        return sum(row.supervised for row in rows)

    def judge(self, losses: torch.Tensor, rows: Sequence[Labelled]) -> Judged:
        """All tokens count alike."""
        return Judged({"loss": losses.sum()}, torch.ones_like(losses))


@dataclass(frozen=True)
class PairLoss:
    """DPO's mean over pairs (`train.preference`), from the log-probabilities of whole replies."""

    method: DpoConfig
    reference: Reference

    def prepare(self, data: TrainingData, ask: Ask, *, dtype: torch.dtype) -> None:
        """Have the reference know all replies, once for all slots."""
        self.reference.learn_by(ask, both([*data.tune, *data.train]), dtype=dtype)

    def size(self, rows: Sequence[Pair]) -> int:
        """The pairs."""
        return len(rows)

    def judge(self, losses: torch.Tensor, rows: Sequence[Pair]) -> Judged:
        """A reply's tokens share the slope of its log-probability."""
        asked = both(rows)
        lengths = [len(reply) for _, reply in asked]
        policy = -torch.stack([part.sum() for part in torch.split(losses, lengths)]).view(-1, 2)
        reference = policy.new_tensor(self.reference.of(asked)).view(-1, 2)
        tokens = torch.tensor(lengths, device=losses.device)
        with torch.enable_grad():
            figures = pair_figures(self.method, policy.requires_grad_(), reference, tokens.view(-1, 2))
            (slope,) = torch.autograd.grad(figures["loss"].sum(), policy)
        sums = {name: values.detach().sum() for name, values in figures.items()}
        return Judged(sums, -slope.flatten().repeat_interleave(tokens))


OBJECTIVES: Mapping[str, Callable[[Any, Reference], Objective]] = {
    "sft": lambda method, reference: TokenLoss(),
    "dpo": PairLoss,
}
"""The objective of each method that the engine trains, given its section and the reference policy's values."""


class Tally:
    """The figures of some slots over rows of theirs, added up pass by pass."""

    def __init__(self, objectives: Mapping[Key, Objective], rows: Mapping[Key, Sequence[Labelled]]) -> None:
        self.objectives = objectives
        self.sizes = {key: objectives[key].size(own) for key, own in rows.items()}
        self.sums: dict[Key, list[dict[str, torch.Tensor]]] = {key: [] for key in rows}

    def add(self, rows: Mapping[Key, Sequence[Labelled]], spans: Sequence[Span], losses: torch.Tensor) -> torch.Tensor:
        """Add a pass, given its negative log-likelihoods [losses] and each slot's span of them.

        Returns how fast the loss of the slot that it belongs to rises with each of them, [losses].
        """
        slopes = torch.empty_like(losses)
        for (key, own), (start, end) in zip(rows.items(), spans, strict=True):
            judged = self.objectives[key].judge(losses[start:end], own)
            slopes[start:end] = judged.slope / self.sizes[key]
            self.sums[key].append(judged.sums)
        return slopes

    def means(self) -> dict[Key, dict[str, float]]:
        """Each slot's figures, means over its rows."""
        return {
            key: {name: sum(float(part[name]) for part in parts) / self.sizes[key] for name in parts[0]}
            for key, parts in self.sums.items()
        }
