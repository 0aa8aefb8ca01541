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
from tunesmith.train.encode import Encoded
from tunesmith.train.loss import supervised_nll
from tunesmith.train.order import EpochOrder

SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


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
    rows: Sequence[Encoded],
    *,
    folder: pathlib.Path,
    callbacks: Sequence[TrainerCallback],
) -> SFTTrainer:
    """A trainer over encoded rows that writes nothing by itself but into `folder`."""
    on_cpu = model.device.type == "cpu"
    trainer_class = SupervisedSFTTrainer if on_cpu else OrderedSFTTrainer
    data = Dataset.from_dict({"input_ids": [r.input_ids for r in rows], "labels": [r.labels for r in rows]})
    trainer = trainer_class(
        model=model,
        args=arguments(experiment, folder=folder, on_cpu=on_cpu, bfloat16=model.dtype == torch.bfloat16),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    return trainer


def arguments(experiment: Experiment, *, folder: pathlib.Path, on_cpu: bool, bfloat16: bool) -> SFTConfig:
    """The experiment's method in TRL's terms; what differs from TRL's defaults differs knowingly."""
    method = experiment.method
    micro_batch = method.micro_batch or method.batch_size
    return SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=method.batch_size // micro_batch,
        learning_rate=method.learning_rate,
        num_train_epochs=method.epochs,
        weight_decay=method.weight_decay,
        lr_scheduler_type=SCHEDULERS[method.scheduler],
        warmup_steps=method.warmup,
        max_grad_norm=method.max_grad_norm,
        gradient_checkpointing=method.gradient_checkpointing,
        max_length=None,  # rows are cut, and counted, when they are encoded
        bf16=bfloat16 and not on_cpu,
        use_cpu=on_cpu,
        seed=experiment.seed,
        data_seed=experiment.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # the filter reports a loss of NaN as 0
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
    )
