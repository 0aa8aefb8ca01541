"""Supervised fine-tuning of encoder–decoder models through transformers' Seq2SeqTrainer (TRL's SFTTrainer takes none).

Every reply of a conversation is a target; its source is all that stands before it.
"""

import functools
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)

from tunesmith.config.experiment import Experiment
from tunesmith.models.encoder_decoder import closed
from tunesmith.models.loading import network_of
from tunesmith.models.prefix import at_least_float32, pad_right
from tunesmith.records import Row
from tunesmith.train.arguments import arguments
from tunesmith.train.encode import IGNORED, assistant_spans
from tunesmith.train.method import Method
from tunesmith.train.ordered import OrderedRows
from tunesmith.train.recorder import TrainingData


@dataclass(frozen=True)
class Exchange:
    """Token ids of a source and of its target; both end with the end token, the target unless it was cut."""

    source: list[int]
    target: list[int]
    truncated: bool

    @property
    def input_ids(self) -> list[int]:
        """All tokens."""
        return self.source + self.target

    @property
    def supervised(self) -> int:
        """How many tokens count in the loss: the whole target."""
        return len(self.target)


def encode_exchanges(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> list[Exchange]:
    """Conversations as exchanges; a source keeps its last `max_length` tokens, a target its first."""
    return [exchange for row in rows for exchange in encode_row(row, tokenizer, max_length=max_length)]


def encode_row(row: Row, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> list[Exchange]:
    """The exchanges of one conversation."""
    text, spans = assistant_spans(row, tokenizer)
    end, exchanges = int(tokenizer.eos_token_id), []
    for start, stop in spans:
        parts = [text[:start].rstrip(), text[start:stop].strip()]
        source, target = (closed(ids, end) for ids in tokenizer(parts, add_special_tokens=False)["input_ids"])
        truncated = max(len(source), len(target)) > max_length
        exchanges.append(Exchange(source[-max_length:], target[:max_length], truncated))
    return exchanges


def collate(rows: Sequence[Exchange], *, pad: int) -> dict[str, torch.Tensor]:
    """Sources as ids and attention mask [rows, source], targets as labels [rows, target], padded on the right."""
    ids, mask = pad_right([row.source for row in rows])
    labels, there = pad_right([row.target for row in rows])
    return {
        "input_ids": ids.masked_fill(mask == 0, pad),
        "attention_mask": mask,
        "labels": labels.masked_fill(there == 0, IGNORED),
    }


def target_nll(model: Any, network: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Summed negative log-likelihood in nats of a batch's target tokens, and their number.

    `model` runs `network`: it is that, or what an adapter or several devices have wrapped around it.
    """
    labels = batch["labels"]
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        decoder_input_ids=network.prepare_decoder_input_ids_from_labels(labels),
        use_cache=False,
    ).logits
    flat = at_least_float32(logits).flatten(0, 1)
    nll = functional.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return nll, int((labels != IGNORED).sum())


class OrderedSeq2SeqTrainer(OrderedRows, Seq2SeqTrainer):
    """Seq2SeqTrainer that sees rows in `EpochOrder`, and weighs every target token of an accumulated batch alike.

    T5's own loss is a mean over each forward pass, whatever share of the batch that holds.
    """

    def row_lengths(self) -> list[int]:
        """The length in tokens of each training row."""
        return [len(row.input_ids) for row in self.train_dataset]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Mean loss per target token of the whole (accumulated) batch."""
        nll, tokens = target_nll(model, network_of(self.accelerator.unwrap_model(model)), inputs)
        read = inputs["attention_mask"].sum() + tokens
        self.state.num_input_tokens_seen += int(self.accelerator.gather(read).sum())
        if num_items_in_batch is None:
            return nll / tokens
        return nll / num_items_in_batch * self.accelerator.num_processes  # gradients of all processes are averaged

    def log(self, logs: dict[str, float], *more: Any, **named: Any) -> None:
        """Log, with the tokens read so far."""
        super().log({**logs, "num_tokens": self.state.num_input_tokens_seen}, *more, **named)


def build_trainer(
    experiment: Experiment,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TrainingData,
    *,
    folder: pathlib.Path,
    callbacks: Sequence[TrainerCallback],
) -> Seq2SeqTrainer:
    """A trainer over exchanges that writes nothing by itself but into `folder`."""
    return OrderedSeq2SeqTrainer(
        model=model,
        args=training_arguments(experiment, model, folder),
        train_dataset=list(data.train),
        data_collator=functools.partial(collate, pad=data.pad),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )


def training_arguments(
    experiment: Experiment, model: PreTrainedModel, folder: pathlib.Path
) -> Seq2SeqTrainingArguments:
    """The experiment's method as Seq2SeqTrainer takes it; the rows are no dictionaries with columns to remove."""
    recompute = {"use_reentrant": False}  # the other way finds no gradient below a frozen embedding
    own = {"remove_unused_columns": False, "gradient_checkpointing_kwargs": recompute}
    return Seq2SeqTrainingArguments(**arguments(experiment, model, folder), **own)


@torch.inference_mode()
def measure(
    model: PreTrainedModel, rows: Sequence[Exchange], *, experiment: Experiment, data: TrainingData
) -> dict[str, float]:
    """The mean loss in nats per target token."""
    network, size = network_of(model), experiment.evaluation.batch_size
    ordered = sorted(rows, key=lambda row: len(row.input_ids))
    total, count = 0.0, 0
    for start in range(0, len(ordered), size):
        batch = collate(ordered[start : start + size], pad=data.pad)
        nll, tokens = target_nll(network, network, {name: tensor.to(network.device) for name, tensor in batch.items()})
        total, count = total + nll.item(), count + tokens
    return {"tune/loss": total / count}


METHOD = Method(encode=encode_exchanges, build_trainer=build_trainer, measure=measure, engine="transformers")
