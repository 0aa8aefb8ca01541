"""Supervised fine-tuning through TRL's SFTTrainer."""

import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig, SFTTrainer

from tunesmith.config.experiment import Experiment
from tunesmith.models.loading import network_of
from tunesmith.train.arguments import arguments
from tunesmith.train.encode import Encoded, encode_rows
from tunesmith.train.loss import mean_loss, supervised_nll
from tunesmith.train.method import Method
from tunesmith.train.order import EpochOrder
from tunesmith.train.recorder import TrainingData


class OrderedSFTTrainer(SFTTrainer):
    """SFTTrainer that sees the rows of an epoch in the order that its seed and the epoch alone determine."""

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return EpochOrder(lengths, batch_size=size, seed=self.args.data_seed)


class SupervisedSFTTrainer(OrderedSFTTrainer):
    """SFTTrainer whose output layer sees only labelled positions.

    TRL does that by itself where Triton runs; elsewhere it scores every position of the batch.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Mean loss per labelled token of the whole (accumulated) batch."""
        base = network_of(self.accelerator.unwrap_model(model))
        nll, tokens = supervised_nll(base, inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        self._total_train_tokens += int(inputs["attention_mask"].sum())
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        return nll / (tokens if num_items_in_batch is None else num_items_in_batch)


def build_trainer(
    experiment: Experiment,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TrainingData,
    *,
    folder: pathlib.Path,
    callbacks: Sequence[TrainerCallback],
) -> SFTTrainer:
    """A trainer over encoded rows that writes nothing by itself but into `folder`."""
    trainer_class = SupervisedSFTTrainer if model.device.type == "cpu" else OrderedSFTTrainer
    rows = data.train
    columns = {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    return trainer_class(
        model=model,
        # rows are cut, and counted, when they are encoded
        args=SFTConfig(**arguments(experiment, model, folder), max_length=None),
        train_dataset=Dataset.from_dict(columns),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )


def measure(
    model: PreTrainedModel, rows: Sequence[Encoded], *, experiment: Experiment, data: TrainingData
) -> dict[str, float]:
    """The mean loss in nats per supervised token."""
    return {"tune/loss": mean_loss(network_of(model), rows, pad=data.pad, batch_size=experiment.evaluation.batch_size)}


METHOD = Method(encode=encode_rows, build_trainer=build_trainer, measure=measure)
