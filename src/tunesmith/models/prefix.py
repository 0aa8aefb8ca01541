"""Forward passes that compute shared leading tokens once.

Rows of one batch often begin alike: the same system prompt, the same question before each of its
choices. The shared part runs as a single row, and its keys and values are handed to every row. This
equals the plain forward pass up to rounding, gradients included.
"""

from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel

SHORTEST = 8

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


def can_share(model: PreTrainedModel) -> bool:
    """Whether the model's cache allows sharing: every layer attends fully, nothing is recomputed."""
    layers = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
    return layers == {"full_attention"} and not model.is_gradient_checkpointing


def shared_length(rows: torch.Tensor) -> int:
    """How many leading columns of `rows` [rows, tokens] are equal in all rows; 0 if too few to pay."""
    if len(rows) < 2:
        return 0
    differs = (rows != rows[:1]).any(0)
    length = int(differs.int().argmax()) if bool(differs.any()) else rows.shape[1]
    return length if length >= SHORTEST else 0


def hidden_states(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, *, prefix: int
) -> tuple[torch.Tensor, DynamicCache | None]:
    """Last hidden states [rows, tokens - prefix, width], and the cache of all tokens if there is one.

    `input_ids` and `attention_mask` are [rows, tokens], padded on the right; the first `prefix`
    columns are the same in all rows.
    """
    if not prefix:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        return model.base_model(**inputs, use_cache=False).last_hidden_state, None
    cache = DynamicCache(config=model.config)
    model.base_model(input_ids=input_ids[:1, :prefix], past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(input_ids))
    inputs = {"input_ids": input_ids[:, prefix:], "attention_mask": attention_mask}
    return model.base_model(**inputs, past_key_values=cache, use_cache=True).last_hidden_state, cache


@torch.inference_mode()
def continuation_logprobs(
    model: PreTrainedModel, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
) -> list[list[tuple[float, bool]]]:
    """Summed log-probability of each continuation of each context, and whether greedy decoding gives it.

    Contexts and continuations are non-empty token ids; each context runs once for all of its
    continuations, and what the contexts share runs once for all of them.
    """
    lengths = torch.tensor([len(context) for context in contexts])
    ids, mask = pad_right(contexts)
    prefix = min(shared_length(ids[:, : int(lengths.min())]), int(lengths.min()) - 1)
    hidden, cache = _with_cache(model, ids.to(model.device), mask.to(model.device), prefix=prefix)
    last = hidden[torch.arange(len(contexts)), lengths - 1 - prefix]
    owner = torch.tensor([n for n, group in enumerate(continuations) for _ in group])
    flat = [list(tokens) for group in continuations for tokens in group]
    states = last[owner][:, None]
    longest = max(len(tokens) for tokens in flat)
    if longest > 1:
        cache.batch_select_indices(owner.to(model.device))
        more, more_mask = pad_right([tokens[:-1] or [0] for tokens in flat])
        positions = lengths[owner][:, None] + torch.arange(more.shape[1])
        outputs = model.base_model(
            input_ids=more.to(model.device),
            attention_mask=torch.cat([mask[owner], more_mask], dim=1).to(model.device),
            position_ids=positions.to(model.device),
            past_key_values=cache,
            use_cache=True,
        )
        states = torch.cat([states, outputs.last_hidden_state], dim=1)
    scored = [_score(model, row[: len(tokens)], tokens) for row, tokens in zip(states, flat, strict=True)]
    results = iter(scored)
    return [[next(results) for _ in group] for group in continuations]


def _with_cache(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, *, prefix: int
) -> tuple[torch.Tensor, DynamicCache]:
    if prefix:
        hidden, cache = hidden_states(model, ids, mask, prefix=prefix)
        if cache is not None:
            return hidden, cache
    cache = DynamicCache(config=model.config)
    outputs = model.base_model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
    return outputs.last_hidden_state, cache


def _score(model: PreTrainedModel, states: torch.Tensor, tokens: Sequence[int]) -> tuple[float, bool]:
    """Log-probability and greediness of tokens, given the hidden state [tokens, width] before each."""
    logits = model.get_output_embeddings()(states).float()
    targets = torch.tensor(list(tokens), device=logits.device)
    chosen = logits.gather(1, targets[:, None])[:, 0]
    logprob = (chosen - logits.logsumexp(1)).sum().item()
    return logprob, bool((logits.argmax(1) == targets).all())


def pad_right(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both [rows, longest], padded with 0 on the right."""
    longest = max(len(row) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for n, row in enumerate(rows):
        ids[n, : len(row)] = torch.tensor(list(row))
        mask[n, : len(row)] = 1
    return ids, mask
