"""Train one adapter on a base that stays loaded."""

import contextlib
import math
import pathlib
import resource
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from tunesmith import manifest
from tunesmith.config.experiment import Experiment
from tunesmith.errors import TrainingError
from tunesmith.models.loading import attach_fresh, detach
from tunesmith.records import TrainedRun
from tunesmith.train.curves import marks, overfits
from tunesmith.train.encode import Encoded, supervised_share
from tunesmith.train.loss import mean_loss
from tunesmith.train.sft import build_trainer

LOGGED = {"loss": "train/loss", "learning_rate": "train/learning_rate", "grad_norm": "train/grad_norm"}


class Reporter(Protocol):
    """Who hears how a training goes."""

    def begin(self, steps: int) -> None:
        """A training of so many optimiser steps begins."""

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        """Metrics of an optimiser step."""

    def rung(self, fraction: float, *, step: int, tune_loss: float) -> None:
        """A share of the training is done; raises `Killed` to stop it here."""


@dataclass(frozen=True)
class TrainingData:
    """Encoded rows: what is trained on, and what the tune loss is measured on."""

    train: Sequence[Encoded]
    tune: Sequence[Encoded]


@contextlib.contextmanager
def trained_adapter(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    experiment: Experiment,
    data: TrainingData,
    *,
    fractions: Sequence[float],
    folder: pathlib.Path,
    reporter: Reporter,
) -> Iterator[tuple[PeftModel, TrainedRun]]:
    """Train a fresh adapter, save it in `folder`, and give the model with it attached.

    The base is bare again afterwards. Tune loss is measured and reported at each of `fractions` of
    the steps. Raises `TrainingError` for a non-finite loss or when memory runs out.
    """
    model = attach_fresh(base, experiment.adapter, seed=experiment.seed)
    try:
        watch = Watch(experiment, data, tokenizer, fractions=fractions, reporter=reporter)
        with _quiet():
            trainer = build_trainer(experiment, model, tokenizer, data.train, folder=folder, callbacks=[watch])
            trainer.remove_callback(PrinterCallback)
            _train(trainer, experiment)
        model.eval()
        with manifest.writing(folder / "adapter") as aside:
            model.save_pretrained(aside, safe_serialization=True)
        yield model, watch.finish(model, folder / "adapter")
    finally:
        detach(model)


def _train(trainer: Any, experiment: Experiment) -> None:
    try:
        trainer.train()
    except torch.OutOfMemoryError:
        remedy = "halve method.micro_batch, set method.gradient_checkpointing, or use adapter.kind qlora"
        raise TrainingError(f"out of memory with {experiment.method.batch_size} rows a step; {remedy}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence deprecation warnings that transformers and TRL cause each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


class Watch(TrainerCallback):
    """Follows a training: logs its steps, stops it when the loss is not finite, measures tune loss."""

    def __init__(
        self,
        experiment: Experiment,
        data: TrainingData,
        tokenizer: PreTrainedTokenizerBase,
        *,
        fractions: Sequence[float],
        reporter: Reporter,
    ) -> None:
        self.data = data
        self.batch_size = experiment.evaluation.batch_size
        self.pad = tokenizer.pad_token_id
        self.fractions = fractions
        self.reporter = reporter
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.marks: dict[int, float] = {}
        self.tokens = 0
        self.seconds = 0.0
        self.step_began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Fix the steps at which tune loss is measured."""
        self.marks = marks(state.max_steps, self.fractions)
        self.reporter.begin(state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock of a step."""
        self.step_began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock of a step."""
        self.seconds += time.perf_counter() - self.step_began

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report a step, and measure tune loss where a mark stands (after its train loss is known)."""
        logs = kwargs["logs"]
        if "loss" not in logs:
            return
        step = state.global_step
        check_finite(logs["loss"], step=step)
        values = {name: float(logs[key]) for key, name in LOGGED.items() if key in logs}
        self.tokens = int(logs.get("num_tokens", self.tokens))
        self._record(values, step)
        if step in self.marks:
            self._measure(kwargs["model"], step)

    def _measure(self, model: PeftModel, step: int) -> None:
        model.eval()
        loss = mean_loss(model.get_base_model(), self.data.tune, pad=self.pad, batch_size=self.batch_size)
        model.train()
        check_finite(loss, step=step)
        self._record({"tune/loss": loss}, step)
        self.reporter.rung(self.marks[step], step=step, tune_loss=loss)

    def _record(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.curves.setdefault(name, []).append((step, value))
        self.reporter.metrics(values, step=step)

    def finish(self, model: PeftModel, adapter: pathlib.Path) -> TrainedRun:
        """The record of the whole training."""
        trainable, total = model.get_nb_trainable_parameters()
        rows = self.data.train
        metrics = {
            **{name: points[-1][1] for name, points in self.curves.items()},
            "train/seconds": self.seconds,
            "train/tokens_per_second": self.tokens / max(self.seconds, 1e-9),
            "train/peak_memory_mb": peak_memory_mb(),
            "train/trainable_share": trainable / total,
            "train/supervised_share": supervised_share(rows),
            "train/truncated_rows": float(sum(row.truncated for row in rows)),
        }
        return TrainedRun(
            adapter=str(adapter),
            adapter_sha256=manifest.sha256_file(adapter / "adapter_model.safetensors"),
            metrics=metrics,
            curves={name: tuple(points) for name, points in self.curves.items()},
            overfit=overfits(self.curves["train/loss"], self.curves["tune/loss"]),
        )


def check_finite(loss: float, *, step: int) -> None:
    """Raise `TrainingError` for a loss that is not a number or infinite."""
    if not math.isfinite(loss):
        raise TrainingError(f"the loss became {loss} at step {step}; lower method.learning_rate")


def peak_memory_mb() -> float:
    """Peak memory in MiB: of the CUDA device if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
