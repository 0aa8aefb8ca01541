"""What each method gives the training: how rows become tokens, a trainer, and how its objective is measured."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from transformers import PreTrainedModel

from tunesmith.config.experiment import Experiment
from tunesmith.errors import ConfigError
from tunesmith.models.architecture import Architecture, check_method
from tunesmith.train.order import steps_per_epoch
from tunesmith.train.recorder import TrainingData
from tunesmith.train.team import team

LOGGED = {"loss": "train/loss", "learning_rate": "train/learning_rate", "grad_norm": "train/grad_norm"}
MODULES = {kind: f"tunesmith.train.{kind}" for kind in ("sft", "dpo", "kto", "reward", "rlhf")}
"""The module of each method, by its kind; it defines `METHOD`."""
ENCODER_DECODER = {"sft": "tunesmith.train.seq2seq"}
"""The same for encoder–decoder models."""


class Measure(Protocol):
    """Measures an objective on rows."""

    def __call__(
        self, model: PreTrainedModel, rows: Sequence[Any], *, experiment: Experiment, data: TrainingData
    ) -> Mapping[str, float]:
        """`tune/loss`, lower is better, and perhaps more; the model is in evaluation mode, with an adapter or bare."""


@dataclass(frozen=True)
class Method:
    """One way of training. All have the same shape, so that one loop trains by each."""

    encode: Callable[..., Sequence[Any]]
    """(rows, tokenizer, *, max_length) → what is trained on; raises `DataError` for a row that does not fit."""
    build_trainer: Callable[..., Any]
    """(experiment, model, tokenizer, data, *, folder, callbacks) → a TRL trainer that writes only into `folder`."""
    measure: Measure
    whole_batches: bool = False
    """Whether rows that do not fill a batch are left out of an epoch."""
    logged: Mapping[str, str] = field(default_factory=dict)
    """Our names of what TRL logs each step, besides `LOGGED`."""
    engine: str = "trl"
    """The library whose trainer it builds."""


def steps_of(method: Method, experiment: Experiment, rows: int) -> int:
    """Optimiser steps of a training over so many encoded rows; raises `ConfigError` when there are none."""
    size, rows = experiment.method.batch_size, team().even(rows)
    per_epoch = rows // size if method.whole_batches else steps_per_epoch(rows, size)
    if not per_epoch:
        raise ConfigError(f"method.batch_size: {size} is more than the {rows} training rows; lower it")
    return per_epoch * experiment.method.epochs


def method_of(experiment: Experiment, architecture: Architecture) -> Method:
    """The method of an experiment on such a model; its trainer is imported now.

    Raises `ModelError` where the method does not train this architecture.
    """
    check_method(architecture, experiment)
    modules = ENCODER_DECODER if architecture.separate else MODULES
    method: Method = importlib.import_module(modules[experiment.method.kind]).METHOD
    return method
