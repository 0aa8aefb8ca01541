"""A reward model: the base's layers under a head that gives a reply one number.

The head reads the hidden state of the reply's last token. It is trained and saved with the adapter.
"""

import copy
from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from tunesmith.errors import ModelError
from tunesmith.models.prefix import branch_states

HEAD = "score"


class RewardHead(torch.nn.Linear):
    """Hidden states of any precision to one number in the head's own, float32."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Rewards [..., 1] of states [..., width]."""
        return super().forward(states.to(self.weight.dtype))


def with_head(base: PreTrainedModel, *, seed: int) -> PreTrainedModel:
    """A classifier of one label over the very layers of `base`, which stays as it is; its head is drawn from `seed`.

    Raises `ModelError` for an architecture that transformers has no classifier of.
    """
    config = copy.deepcopy(base.config)
    config.num_labels = 1
    config.pad_token_id = None  # ends are told by the lengths of replies, never by padding
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        raise ModelError(f"model.base: {type(base).__name__} has no form with a reward head") from None
    setattr(model, model.base_model_prefix, base.base_model)
    head = RewardHead(config.get_text_config().hidden_size, 1, bias=False)
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.normal_(head.weight, std=config.get_text_config().initializer_range, generator=generator)
    setattr(model, HEAD, head.to(base.device))
    return model.eval()


def is_reward_model(model: torch.nn.Module) -> bool:
    """Whether a model has a reward head (and no output layer)."""
    return hasattr(model, HEAD)


def rewards(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[Sequence[int]]]
) -> torch.Tensor:
    """The reward of each reply, float32 [replies], one prompt's replies after the other; gradients flow.

    `model` is a classifier, adapter layers inside it; prompts and replies are non-empty token ids, and a prompt
    runs once for all of its replies.
    """
    states = branch_states(model, prompts, replies)
    ends = torch.tensor([len(reply) for group in replies for reply in group], device=states.device)
    last = states[torch.arange(len(ends), device=states.device), ends]
    found: torch.Tensor = model.get_submodule(HEAD)(last)
    return found[:, 0]


@torch.inference_mode()
def reward_all(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[Sequence[int]]],
    *,
    batch_size: int,
) -> list[list[float]]:
    """The rewards of every prompt's replies, prompts of like length together, `batch_size` prompts at once."""
    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
    found: list[list[float]] = [[] for _ in prompts]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        values = iter(rewards(model, [prompts[n] for n in batch], [replies[n] for n in batch]).tolist())
        for n in batch:
            found[n] = [next(values) for _ in replies[n]]
    return found


class Ranked(Protocol):
    """A prompt's tokens and those of two replies."""

    @property
    def prompt(self) -> list[int]:
        """What was asked."""

    @property
    def chosen(self) -> list[int]:
        """The better reply."""

    @property
    def rejected(self) -> list[int]:
        """The other one."""


def pair_margins(model: PreTrainedModel, pairs: Sequence[Ranked], *, batch_size: int) -> list[float]:
    """By how much the chosen reply's reward exceeds the rejected one's, for each pair."""
    replies = [[pair.chosen, pair.rejected] for pair in pairs]
    found = reward_all(model, [pair.prompt for pair in pairs], replies, batch_size=batch_size)
    return [chosen - rejected for chosen, rejected in found]
