"""What a policy thinks of replies: log-probability and entropy of each token, each prompt run once for its replies."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tunesmith.models.prefix import HEAD_ROWS, at_least_float32, branch_states

Ids = list[int]


@dataclass(frozen=True)
class Groups:
    """Replies by their prompt; `places` says where each stood before, in the order in which they stand here."""

    prompts: list[Ids]
    replies: list[list[Ids]]
    places: list[int]

    @property
    def flat(self) -> list[Ids]:
        """The replies, one prompt's after the other."""
        return [reply for group in self.replies for reply in group]

    def ungrouped(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Values of the flat replies' tokens, one tensor for each reply, in the order in which the replies stood."""
        rows = torch.split(values, [len(reply) for reply in self.flat])
        return [row for _, row in sorted(zip(self.places, rows, strict=True), key=lambda pair: pair[0])]


def grouped(prompts: Sequence[Sequence[int]], replies: Sequence[Ids]) -> Groups:
    """Bring the replies to equal prompts together."""
    places: dict[tuple[int, ...], list[int]] = {}
    for n, prompt in enumerate(prompts):
        places.setdefault(tuple(prompt), []).append(n)
    by_prompt = [[replies[n] for n in group] for group in places.values()]
    return Groups([list(prompt) for prompt in places], by_prompt, [n for group in places.values() for n in group])


def token_logprobs(model: PreTrainedModel, groups: Groups) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy in nats of each token of the replies, both float32 [tokens of the flat replies].

    `model` is a causal model, adapter layers inside it; gradients flow through the log-probabilities. The logits
    of `HEAD_ROWS` positions are held at once, and computed again in the backward pass.
    """
    read = [[reply[:-1] for reply in group] for group in groups.replies]
    states = branch_states(model, groups.prompts, read)
    flat = torch.cat([row[: len(reply)] for row, reply in zip(states, groups.flat, strict=True)])
    targets = torch.tensor([token for reply in groups.flat for token in reply], device=flat.device)
    head = model.get_output_embeddings()

    def chunk(rows: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logs = at_least_float32(head(rows)).log_softmax(-1)
        return logs.gather(1, wanted[:, None])[:, 0], -(logs.detach().exp() * logs.detach()).sum(-1)

    pairs = zip(torch.split(flat, HEAD_ROWS), torch.split(targets, HEAD_ROWS), strict=True)
    parts = [checkpoint(chunk, rows, wanted, use_reentrant=False) for rows, wanted in pairs]
    return torch.cat([logs for logs, _ in parts]), torch.cat([entropies for _, entropies in parts])
