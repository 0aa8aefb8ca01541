"""Supervised fine-tuning through TRL's SFTTrainer."""

import functools
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
from tunesmith.train.ordered import OrderedRows
from tunesmith.train.recorder import TrainingData
from tunesmith.train.team import inside


class OrderedSFTTrainer(OrderedRows, SFTTrainer):
    """SFTTrainer that sees rows in `EpochOrder`."""

    def row_lengths(self) -> list[int]:
        """The length in tokens of each training row."""
        return [len(ids) for ids in self.train_dataset["input_ids"]]


class SupervisedSFTTrainer(OrderedSFTTrainer):
    """SFTTrainer whose output layer sees only labelled positions.

    TRL does that by itself where Triton runs; elsewhere it scores every position of the batch.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Mean loss per labelled token of the whole (accumulated) batch."""
        network = self.accelerator.unwrap_model(model)
        rows = (inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        nll, tokens = inside(model, network, functools.partial(supervised_nll, network_of(network)), *rows)
        self._total_train_tokens += int(self.accelerator.gather(inputs["attention_mask"].sum()).sum())
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        if num_items_in_batch is None:
            return nll / tokens
        return nll / num_items_in_batch * self.accelerator.num_processes  # gradients of all processes are averaged


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
