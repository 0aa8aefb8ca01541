"""Likelihoods and greedy replies of encoder–decoder models, in the shape that decoder-only ones have in `prefix`.

A source, which the encoder reads, ends with the end token, as T5 was trained (Raffel et al., 2020).
"""

from collections.abc import Collection, Sequence

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from tunesmith.models.prefix import at_least_float32, pad_right


def closed(tokens: Sequence[int], end: int) -> list[int]:
    """Tokens with the end token behind them, once."""
    return [*tokens] if tokens and tokens[-1] == end else [*tokens, end]


@torch.inference_mode()
def target_logprobs(
    model: PreTrainedModel, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
) -> list[list[tuple[float, bool]]]:
    """As `prefix.continuation_logprobs`: each context is a source, which the encoder reads once for all its targets."""
    ids, mask = _sources(model, contexts)
    encoded = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    owner = torch.tensor([n for n, group in enumerate(continuations) for _ in group], device=ids.device)
    flat = [list(tokens) for group in continuations for tokens in group]
    scored: list[tuple[float, bool]] = []
    for start in range(0, len(flat), len(contexts)):  # as many rows at once as there are contexts
        rows = owner[start : start + len(contexts)]
        targets, there = (part.to(ids.device) for part in pad_right(flat[start : start + len(contexts)]))
        outputs = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded[rows]),
            attention_mask=mask[rows],
            decoder_input_ids=model.prepare_decoder_input_ids_from_labels(targets),
            use_cache=False,
        )
        logits = at_least_float32(outputs.logits)
        logprobs = logits.gather(2, targets[:, :, None])[:, :, 0] - logits.logsumexp(2)
        greedy = ((logits.argmax(2) == targets) | (there == 0)).all(1)
        scored += zip(logprobs.masked_fill(there == 0, 0.0).sum(1).tolist(), greedy.tolist(), strict=True)
    results = iter(scored)
    return [[next(results) for _ in group] for group in continuations]


@torch.inference_mode()
def greedy_targets(
    model: PreTrainedModel, contexts: Sequence[Sequence[int]], *, limit: int, ends: Collection[int]
) -> list[list[int]]:
    """As `decoding.greedy`: the likeliest target of each source, up to `limit` tokens or an end token."""
    ids, mask = _sources(model, contexts)
    settings = {"do_sample": False, "num_beams": 1, "eos_token_id": sorted(ends)}
    made = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=limit, **settings)
    replies = []
    for row in made[:, 1:].tolist():  # the first token only starts the decoder
        end = next((n for n, token in enumerate(row) if token in ends), len(row))
        replies.append(row[:end])
    return replies


def _sources(model: PreTrainedModel, contexts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Closed sources as ids and attention mask on the model's device."""
    end = model.config.eos_token_id
    ids, mask = pad_right([closed(context, end) for context in contexts])
    return ids.to(model.device), mask.to(model.device)
