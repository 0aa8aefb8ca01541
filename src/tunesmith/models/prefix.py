"""Forward passes that compute shared leading tokens once.

Rows of one batch often begin alike: the same system prompt, the same question before each of its
choices. The shared part runs as a single row, and its keys and values are handed to every row. This
equals the plain forward pass up to rounding, gradients included.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

SHORTEST = 8
HEAD_ROWS = 1024  # positions whose logits are held at once

LOGIT_SCALES = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)


def scales_logits(model: PreTrainedModel) -> bool:
    """Whether a model changes its logits after the output layer (Gemma 2, Cohere, Granite, ...)."""
    config = model.config.get_text_config()
    return any(getattr(config, name, None) not in (None, 1, 1.0) for name in LOGIT_SCALES)


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Values in float32, or in float64 if that is what they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def can_share(model: PreTrainedModel) -> bool:
    """Whether the model's cache allows sharing: every layer attends fully, nothing is recomputed."""
    layers = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
    both = model.config.is_encoder_decoder  # its layers do not take a prompt's keys and values alone
    return layers == {"full_attention"} and not both and not model.is_activation_checkpointing


def shared_length(rows: torch.Tensor) -> int:
    """How many leading columns of `rows` [rows, tokens] are equal in all rows; 0 if too few to pay."""
    if len(rows) < 2:
        return 0
    differs = (rows != rows[:1]).any(0)
    length = int(differs.int().argmax()) if bool(differs.any()) else rows.shape[1]
    return length if length >= SHORTEST else 0


def hidden_states(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, *, prefix: int
) -> torch.Tensor:
    """Last hidden states [rows, tokens - prefix, width], gradients flowing back through the prefix.

    `input_ids` and `attention_mask` are [rows, tokens], padded on the right; the first `prefix`
    columns are the same in all rows.
    """
    inputs: dict[str, Any] = {"input_ids": input_ids[:, prefix:], "attention_mask": attention_mask}
    if prefix:
        cache = DynamicCache(config=model.config)
        model.base_model(input_ids=input_ids[:1, :prefix], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(input_ids))
        inputs["past_key_values"] = cache
    return model.base_model(**inputs, use_cache=bool(prefix)).last_hidden_state


@torch.inference_mode()
def continuation_logprobs(
    model: PreTrainedModel, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
) -> list[list[tuple[float, bool]]]:
    """Summed log-probability of each continuation of each context, and whether greedy decoding gives it.

    Contexts and continuations are non-empty token ids.
    """
    read = [[tokens[:-1] for tokens in group] for group in continuations]
    flat = [list(tokens) for group in continuations for tokens in group]
    results = iter(_score(model, branch_states(model, contexts, read), flat))
    return [[next(results) for _ in group] for group in continuations]


@torch.inference_mode()
def plain_logprobs(
    model: PreTrainedModel, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
) -> list[list[tuple[float, bool]]]:
    """As `continuation_logprobs`, each row by itself: for models whose layers do not all attend to everything.

    As many rows as there are contexts run at once, and the output layer still sees the continuations alone.
    """
    pairs = [
        (list(context), list(tokens))
        for context, group in zip(contexts, continuations, strict=True)
        for tokens in group
    ]
    scored = []
    for start in range(0, len(pairs), len(contexts)):
        batch = pairs[start : start + len(contexts)]
        ids, mask = pad_right([context + tokens[:-1] for context, tokens in batch])
        hidden = model.base_model(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
        ).last_hidden_state
        states = [row[len(context) - 1 :] for row, (context, _) in zip(hidden, batch, strict=True)]
        scored += _score(model, states, [tokens for _, tokens in batch])
    results = iter(scored)
    return [[next(results) for _ in group] for group in continuations]


def branch_states(
    model: PreTrainedModel, contexts: Sequence[Sequence[int]], branches: Sequence[Sequence[Sequence[int]]]
) -> torch.Tensor:
    """Hidden states [branches, 1 + longest, width] of a context's last token and then of a branch's tokens.

    `branches` has a group for each context. Each context runs once for its group, and what the contexts share
    runs once for all; gradients flow back through both. What lies behind a shorter branch means nothing.
    """
    last, cache, mask = prefill(model, contexts)
    lengths = torch.tensor([len(context) for context in contexts])
    owner = torch.tensor([n for n, group in enumerate(branches) for _ in group])
    flat = [list(tokens) or [0] for group in branches for tokens in group]
    states = last[owner.to(last.device)][:, None]
    if not any(tokens for group in branches for tokens in group):
        return states
    cache.batch_select_indices(owner.to(model.device))
    more, more_mask = pad_right(flat)
    positions = lengths[owner][:, None] + torch.arange(more.shape[1])
    outputs = model.base_model(
        input_ids=more.to(model.device),
        attention_mask=torch.cat([mask[owner], more_mask], dim=1).to(model.device),
        position_ids=positions.to(model.device),
        past_key_values=cache,
        use_cache=True,
    )
    return torch.cat([states, outputs.last_hidden_state], dim=1)


def prefill(
    model: PreTrainedModel, contexts: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, DynamicCache, torch.Tensor]:
    """Run contexts up to their ends, padded on the right.

    Returns the hidden state [contexts, width] of each one's last token, the cache of all of them, and
    the mask [contexts, longest] of the cache's columns.
    """
    lengths = torch.tensor([len(context) for context in contexts])
    ids, mask = pad_right(contexts)
    prefix = min(shared_length(ids[:, : int(lengths.min())]), int(lengths.min()) - 1)
    cache = DynamicCache(config=model.config)
    if prefix:
        model.base_model(input_ids=ids[:1, :prefix].to(model.device), past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(contexts))
    hidden = model.base_model(
        input_ids=ids[:, prefix:].to(model.device),
        attention_mask=mask.to(model.device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return hidden[torch.arange(len(contexts)), lengths - 1 - prefix], cache, mask


def _score(
    model: PreTrainedModel, states: torch.Tensor | Sequence[torch.Tensor], replies: Sequence[Sequence[int]]
) -> list[tuple[float, bool]]:
    """Log-probability and greediness of replies, given the states [replies, tokens, width] before each token."""
    lengths = [len(reply) for reply in replies]
    flat = torch.cat([row[:length] for row, length in zip(states, lengths, strict=True)])
    targets = torch.tensor([token for reply in replies for token in reply], device=flat.device)
    logprobs, hits = [], []
    for rows, wanted in zip(torch.split(flat, HEAD_ROWS), torch.split(targets, HEAD_ROWS), strict=True):
        logits = at_least_float32(model.get_output_embeddings()(rows))
        logprobs.append(logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(1))
        hits.append(logits.argmax(1) == wanted)
    per_reply = zip(torch.split(torch.cat(logprobs), lengths), torch.split(torch.cat(hits), lengths), strict=True)
    return [(float(values.sum()), bool(greedy_hits.all())) for values, greedy_hits in per_reply]


def pad_right(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both [rows, longest], padded with 0 on the right."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for n, row in enumerate(rows):
        ids[n, : len(row)] = torch.tensor(list(row))
        mask[n, : len(row)] = 1
    return ids, mask
