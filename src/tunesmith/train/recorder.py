"""What is written down of a training, whichever engine does it."""

import hashlib
import math
import pathlib
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from tunesmith import manifest
from tunesmith.config.method import Training
from tunesmith.errors import TrainingError
from tunesmith.models.loading import trained_weights
from tunesmith.records import TrainedRun
from tunesmith.train.curves import marks, overfitting_step
from tunesmith.train.encode import supervised_share
from tunesmith.train.reference import Reference

FINGERPRINT_STEPS = 10


class Reporter(Protocol):
    """Who hears how a training goes."""

    def begin(self, steps: int, *, step: int = 0) -> None:
        """A training of so many optimiser steps begins, or goes on after `step` of them."""

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        """Metrics of an optimiser step."""

    def rung(self, fraction: float, *, step: int, tune_loss: float) -> None:
        """A share of the training is done."""


class Unheard:
    """A reporter that nobody listens to: of a process that does not write."""

    def begin(self, steps: int, *, step: int = 0) -> None:
        """A training begins."""

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        """An optimiser step is done."""

    def rung(self, fraction: float, *, step: int, tune_loss: float) -> None:
        """A share of the training is done."""


@dataclass(frozen=True)
class TrainingData:
    """Encoded rows: what is trained on, and what the tune loss is measured on."""

    train: Sequence[Any]
    tune: Sequence[Any]
    pad: int = 0
    """The token that rows of a batch are filled up with."""
    end: int = 0
    """The token that ends a reply."""
    parent: pathlib.Path | None = None
    """The folder of the adapter that the training goes on with, if it does."""
    reference: Reference = field(default_factory=Reference)
    """What the policy that the training begins with thinks of replies."""
    yardstick: Training | None = None
    """The method whose loss the tune loss is, where that is not the trained one: see `Workbench.training_data`."""


class Recorder:
    """Curves, clock and token count of one training, passed on to a reporter."""

    def __init__(self, data: TrainingData, *, fractions: Sequence[float], reporter: Reporter) -> None:
        self.data, self.fractions, self.reporter = data, fractions, reporter
        self.engine = ""
        self.weights: tuple[int, int] | None = None
        self.stopped = ""
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.marks: dict[int, float] = {}
        self.fingerprints: dict[int, str] = {}
        self.tokens = 0
        self.seconds = 0.0
        self.began = 0.0

    def begin(self, steps: int, *, step: int = 0) -> None:
        """Fix the steps at which tune loss is measured; `step` of the training's `steps` are done already."""
        self.marks = marks(steps, self.fractions)
        self.reporter.begin(steps, step=step)

    def state(self) -> dict[str, Any]:
        """What another recorder needs to go on from here, as plain values."""
        spent = {"tokens": self.tokens, "seconds": self.seconds}
        return {"curves": self.curves, "fingerprints": list(self.fingerprints.items()), **spent}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the `state` of another recorder of the same training."""
        self.curves = {name: [(int(step), value) for step, value in points] for name, points in state["curves"].items()}
        self.fingerprints = {int(step): digest for step, digest in state["fingerprints"]}
        self.tokens, self.seconds = int(state["tokens"]), float(state["seconds"])

    def start_clock(self) -> None:
        """An optimiser step begins."""
        self.began = time.perf_counter()

    def stop_clock(self) -> None:
        """An optimiser step is done."""
        self.seconds += time.perf_counter() - self.began

    def step(self, values: dict[str, float], *, step: int) -> None:
        """Report a step; raises `TrainingError` when its loss is not finite."""
        check_finite(values["train/loss"], step=step)
        self._record(values, step)

    def tuned(self, values: Mapping[str, float], *, step: int) -> None:
        """Report the tune loss, and what else was measured with it, at one of `marks`."""
        loss = values["tune/loss"]
        check_finite(loss, step=step)
        self._record(values, step)
        self.reporter.rung(self.marks[step], step=step, tune_loss=loss)

    def _record(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.curves.setdefault(name, []).append((step, value))
        self.reporter.metrics(dict(values), step=step)

    def fingerprint(self, weights: Iterable[torch.Tensor], *, step: int) -> None:
        """Note the SHA-256 of the trained weights' bits, after every tenth step and the last."""
        if step % FINGERPRINT_STEPS == 0 or step == max(self.marks):
            digest = hashlib.sha256()
            for weight in weights:
                digest.update(weight.detach().cpu().numpy().tobytes())
            self.fingerprints[step] = digest.hexdigest()

    def finish(self, model: PreTrainedModel, adapter: pathlib.Path) -> TrainedRun:
        """The record of the whole training; `weights` counts what was trained where other than that is saved."""
        trainable, total = self.weights or trained_weights(model)
        rows = self.data.train
        metrics = {
            **{name: points[-1][1] for name, points in self.curves.items()},
            "train/seconds": self.seconds,
            "train/tokens": float(self.tokens),
            "train/tokens_per_second": self.tokens / max(self.seconds, 1e-9),
            "train/peak_memory_mb": peak_memory_mb(),
            "train/trainable_share": trainable / total,
            "train/supervised_share": supervised_share(rows),
            "train/truncated_rows": float(sum(row.truncated for row in rows)),
        }
        return TrainedRun(
            adapter=str(adapter),
            adapter_sha256=weights_sha256(adapter),
            metrics=metrics,
            curves={name: tuple(points) for name, points in self.curves.items()},
            overfit=overfitting_step(self.curves["train/loss"], self.curves["tune/loss"]) is not None,
            engine=self.engine,
            stopped=self.stopped,
            fingerprints=dict(self.fingerprints),
        )


def weights_sha256(folder: pathlib.Path) -> str:
    """SHA-256 of a saved adapter's weights; of a whole model, over all its files with weights."""
    adapter = folder / "adapter_model.safetensors"
    if adapter.is_file():
        return manifest.sha256_file(adapter)
    return manifest.digest({path.name: manifest.sha256_file(path) for path in folder.glob("*.safetensors")})


def check_finite(loss: float, *, step: int) -> None:
    """Raise `TrainingError` for a loss that is not a number or infinite."""
    if not math.isfinite(loss):
        raise TrainingError(f"the loss became {loss} at step {step}; lower method.learning_rate")


def peak_memory_mb() -> float:
    """Peak memory in MiB: of the CUDA device if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
