"""Replies token by token: greedy ones, and samples with their log-probabilities. What prompts share runs once."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

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
    replies = [Reply() for _ in position]
    rows = list(range(len(replies)))
    ended: set[int] = set()
    for _ in range(limit):
        logits = at_least_float32(model.get_output_embeddings()(state))
        tokens = choose(logits)
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            if row not in ended:
                replies[row].tokens.append(token)
                replies[row].logprobs.append(logprob)
            if token in ends:
                ended.add(row)
        kept = [n for n, row in enumerate(rows) if row not in ended]
        if not kept:
            break
        if len(kept) < COMPACT_BELOW * len(rows):
            cache.batch_select_indices(torch.tensor(kept, device=model.device))
            rows, mask, position, tokens = [rows[n] for n in kept], mask[kept], position[kept], tokens[kept]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        state = model.base_model(
            input_ids=tokens[:, None],
            attention_mask=mask.to(model.device),
            position_ids=position[:, None].to(model.device),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        position = position + 1
    return replies


def end_tokens(model: PreTrainedModel) -> set[int]:
    """The tokens at which the model's generation settings end a reply."""
    ends = model.generation_config.eos_token_id
    return set(ends) if isinstance(ends, list) else {ends} - {None}
