"""The supervised loss, computed only where a label is, which saves most of the output layer's work."""

from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from tunesmith.models.prefix import at_least_float32, can_share, hidden_states, scales_logits, shared_length
from tunesmith.train.encode import IGNORED, Encoded


def supervised_nll(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, int]:
    """Summed negative log-likelihood in nats of the labelled tokens, and their number.

    All three tensors are [rows, tokens], padded on the right; `model` is the base model, adapter
    layers inside it. The hidden states of unlabelled positions never reach the output layer, and a
    prompt prefix that all rows share is computed once.
    """
    prefix = shared_prompt(model, input_ids, labels)
    kept = labels[:, prefix + 1 :] != IGNORED
    targets = labels[:, prefix + 1 :][kept]
    if scales_logits(model):
        logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[:, prefix:-1][kept]
    else:
        hidden = hidden_states(model, input_ids, attention_mask, prefix=prefix)
        logits = model.get_output_embeddings()(hidden[:, :-1][kept])
    return functional.cross_entropy(at_least_float32(logits), targets, reduction="sum"), targets.numel()


def shared_prompt(model: PreTrainedModel, input_ids: torch.Tensor, labels: torch.Tensor) -> int:
    """How many leading tokens all rows share, without a label among them or right behind them."""
    if not can_share(model):
        return 0
    labelled = (labels != IGNORED).any(0)
    return shared_length(input_ids[:, : int(labelled.int().argmax())])


def mean_loss(model: PreTrainedModel, rows: Sequence[Encoded], *, pad: int, batch_size: int) -> float:
    """Mean loss in nats per supervised token over `rows`, the model in evaluation mode."""
    ordered = sorted(rows, key=lambda row: len(row.input_ids))
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(ordered), batch_size):
            batch = collate(ordered[start : start + batch_size], pad=pad)
            nll, tokens = supervised_nll(model, *(tensor.to(model.device) for tensor in batch))
            total, count = total + nll.item(), count + tokens
    return total / count


def collate(rows: Sequence[Encoded], *, pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, attention mask and labels of rows, padded on the right to [rows, longest]."""
    longest = max(len(row.input_ids) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    for n, row in enumerate(rows):
        length = len(row.input_ids)
        ids[n, :length] = torch.tensor(row.input_ids)
        mask[n, :length] = 1
        labels[n, :length] = torch.tensor(row.labels)
    return ids, mask, labels
