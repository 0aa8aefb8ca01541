"""What a training run would do, without doing it."""

from dataclasses import dataclass

import torch
from transformers import AutoConfig

from tunesmith.config.experiment import AdapterConfig, Experiment
from tunesmith.data.dataset import load_dataset, training_rows
from tunesmith.data.formats import as_conversation
from tunesmith.models.architecture import architecture_in
from tunesmith.models.device import place
from tunesmith.models.loading import attach_fresh, load_tokenizer, trained_weights
from tunesmith.models.references import LocalModel, resolve
from tunesmith.train.encode import mask_preview, supervised_share
from tunesmith.train.memory import estimate_memory
from tunesmith.train.method import method_of, steps_of


@dataclass(frozen=True)
class Plan:
    """Rows by split, and tokens, optimiser steps and memory of one training run."""

    placement: str
    parameters: int
    trainable: int
    rows: dict[str, int]
    training_rows: int
    tokens: int
    supervised_share: float
    truncated: int
    steps: int
    steps_per_epoch: int
    memory_mb: float
    preview: str


def make_plan(experiment: Experiment) -> Plan:
    """Resolve everything that training would resolve; loads a tokenizer, but no weights."""
    dataset = load_dataset(experiment)
    placement = place(experiment.model)
    model = resolve(experiment.model.base, revision=experiment.model.revision)
    tokenizer = load_tokenizer(model)
    rows = training_rows(dataset, experiment.data).rows
    method = method_of(experiment, architecture_in(model.path))
    encoded = method.encode(rows, tokenizer, max_length=experiment.model.max_length)
    parameters, trainable = count_parameters(model, experiment.adapter)
    longest = (max(len(row.input_ids) for row in encoded), max(row.supervised for row in encoded))
    config = AutoConfig.from_pretrained(model.path).get_text_config()
    needed = estimate_memory(experiment, config, weights=(parameters, trainable), row=longest)
    steps = steps_of(method, experiment, len(encoded))
    return Plan(
        placement=placement.describe(),
        parameters=parameters,
        trainable=trainable,
        rows={split.name: len(split.rows) for split in dataset.splits},
        training_rows=len(encoded),
        tokens=sum(len(row.input_ids) for row in encoded),
        supervised_share=supervised_share(encoded),
        truncated=sum(row.truncated for row in encoded),
        steps=steps,
        steps_per_epoch=steps // experiment.method.epochs,
        memory_mb=needed / 2**20,
        preview=mask_preview(as_conversation(rows[0]), tokenizer),
    )


def count_parameters(model: LocalModel, adapter: AdapterConfig) -> tuple[int, int]:
    """Number of the base's weights and of the adapter's, counted without allocating them."""
    with torch.device("meta"):
        base = architecture_in(model.path).auto.from_config(AutoConfig.from_pretrained(model.path))
        parameters = base.num_parameters()
        if adapter.kind == "full":
            return parameters, parameters
        _, total = trained_weights(attach_fresh(base, adapter.model_copy(update={"init": "default"}), seed=0))
    return parameters, total - parameters
