"""Replies token by token: greedy ones, and samples with their log-probabilities. What prompts share runs once."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, PreTrainedModel

from tunesmith.models.prefix import at_least_float32, prefill

COMPACT_BELOW = 0.75  # share of a decoding batch still alive at which the others leave it

Choose = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Reply:
    """A decoded reply: its token ids, the end token among them if it came, and the log-probability of each."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def greedy(
    model: PreTrainedModel, contexts: Sequence[Sequence[int]], *, limit: int, ends: Collection[int]
) -> list[list[int]]:
    """The likeliest continuation of each context, token by token, up to `limit` tokens or an end token.

    The end token is not part of the result.
    """
    replies = decode(model, contexts, limit=limit, ends=ends, choose=lambda logits: logits.argmax(-1))
    return [reply.tokens[:-1] if reply.tokens and reply.tokens[-1] in ends else reply.tokens for reply in replies]


def sample(
    model: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    *,
    copies: int,
    limit: int,
    ends: Collection[int],
    generator: torch.Generator,
) -> list[Reply]:
    """`copies` replies to each context, one context after the other, drawn from the model's own distribution."""

    def draw(logits: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]

    return decode(model, contexts, limit=limit, ends=ends, choose=draw, copies=copies)


@dataclass
class Batch:
    """Rows in decoding, by number: what each has read, the mask [rows, tokens] of that, and each's next position."""

    model: PreTrainedModel
    rows: list[int]
    cache: DynamicCache
    mask: torch.Tensor
    position: torch.Tensor

    def keep(self, places: list[int]) -> None:
        """Let all rows leave but those at these places."""
        self.cache.batch_select_indices(torch.tensor(places, device=self.model.device))
        self.rows = [self.rows[place] for place in places]
        self.mask, self.position = self.mask[places], self.position[places]

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Have each row read its next token; returns its hidden states [rows, width]."""
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        hidden: torch.Tensor = self.model.base_model(
            input_ids=tokens[:, None],
            attention_mask=self.mask.to(self.model.device),
            position_ids=self.position[:, None].to(self.model.device),
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.position = self.position + 1
        return hidden[:, -1]


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    contexts: Sequence[Sequence[int]],
    *,
    limit: int,
    ends: Collection[int],
    choose: Choose,
    copies: int = 1,
) -> list[Reply]:
    """Continue each context `copies` times by the tokens that `choose` takes, given logits [rows, vocabulary].

    A reply ends with an end token or after `limit` tokens. Rows that have ended leave the batch in bunches,
    since each leaving copies the cache of the others.
    """
    state, cache, mask = prefill(model, contexts)
    position = torch.tensor([len(context) for context in contexts])
    if copies > 1:
        cache.batch_repeat_interleave(copies)
        state, mask, position = (tensor.repeat_interleave(copies, 0) for tensor in (state, mask, position))
    batch = Batch(model, list(range(len(position))), cache, mask, position)
    replies = [Reply() for _ in position]
    ended: set[int] = set()
    for left in range(limit, 0, -1):
        logits = at_least_float32(model.get_output_embeddings()(state))
        tokens = choose(logits)
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
        for row, token, logprob in zip(batch.rows, tokens.tolist(), logprobs.tolist(), strict=True):
            if row not in ended:
                replies[row].tokens.append(token)
                replies[row].logprobs.append(logprob)
            if token in ends:
                ended.add(row)
        going = [place for place, row in enumerate(batch.rows) if row not in ended]
        if not going or left == 1:
            break
        if len(going) < COMPACT_BELOW * len(batch.rows):
            batch.keep(going)
            tokens = tokens[going]
        state = batch.read(tokens)
    return replies


def end_tokens(model: PreTrainedModel) -> set[int]:
    """The tokens at which the model's generation settings end a reply."""
    ends = model.generation_config.eos_token_id
    return set(ends) if isinstance(ends, list) else {ends} - {None}
