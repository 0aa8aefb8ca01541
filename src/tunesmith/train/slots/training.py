"""One training in a slot, with its record: what the engine's steps did to it, saved together."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TypeVar

from peft import PeftModel

from tunesmith.config.experiment import Experiment
from tunesmith.errors import TrainingError
from tunesmith.train import checkpoint as checkpoints
from tunesmith.train.checkpoint import Checkpoint
from tunesmith.train.recorder import Recorder
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.passes import Key
from tunesmith.train.slots.slot import Plan, StepResult
from tunesmith.train.start import Start

RECORD = "recorder"

K = TypeVar("K")


class SlotTraining:
    """A training that joins an engine, fresh or from the checkpoint `found`, and follows its slot there.

    `folder` is where its checkpoints are kept; None keeps none.
    """

    def __init__(
        self,
        engine: Engine,
        key: Key,
        experiment: Experiment,
        recorder: Recorder,
        *,
        folder: pathlib.Path | None = None,
        found: Checkpoint | None = None,
    ) -> None:
        self.engine, self.key, self.recorder, self.folder = engine, key, recorder, folder
        plan = Plan.of(experiment, recorder.data)
        plan.objective.prepare(recorder.data, partial(engine.ask, plan), dtype=engine.network.dtype)
        self.slot = engine.join(key, plan, found)
        self.saved = found.step if found else -1
        if found:
            recorder.restore(found.record[RECORD])
        recorder.engine = "slots"
        recorder.begin(self.steps, step=self.step)

    @property
    def fresh(self) -> bool:
        """Whether it has no checkpoint to go on from."""
        return self.saved < 0

    def begin_with(self, start: Start) -> None:
        """Begin with another training's weights; raises `StartError` if they do not fit."""
        start.write_to(self.slot.layout.named(self.slot.weights.data))

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.slot.plan.steps

    @property
    def step(self) -> int:
        """Steps done."""
        return self.slot.step

    def take(self, result: StepResult, *, seconds: float) -> None:
        """Write down a step that the engine has made, and what tune rows say if that is due.

        `seconds` is this slot's part of the step's time. Raises `TrainingError` when the step was not finite.
        """
        recorder = self.recorder
        recorder.seconds += seconds
        recorder.tokens = self.slot.tokens
        if result.nonfinite:
            what = f"loss {result.loss:g}, gradient norm {result.grad_norm:g}"
            raise TrainingError(f"{what} at step {result.step + 1}; lower method.learning_rate")
        values = {
            **{f"train/{name}": value for name, value in result.values.items()},
            "train/learning_rate": result.learning_rate,
            "train/grad_norm": result.grad_norm,
        }
        recorder.step(values, step=result.step)
        recorder.fingerprint([self.slot.weights], step=result.step)
        if result.step in recorder.marks:
            found = self.engine.measure([self.key], recorder.data.tune)[self.key]
            recorder.tuned({f"tune/{name}": value for name, value in found.items()}, step=result.step)

    def save(self) -> None:
        """Write a checkpoint, unless the newest one is of this very step."""
        assert self.folder is not None  # noqa: S101 - only trainings with a folder are saved
        if self.saved != self.step:
            checkpoint = self.slot.checkpoint()
            checkpoint.record[RECORD] = self.recorder.state()
            checkpoints.save(self.folder, checkpoint)
            self.saved = self.step

    @contextlib.contextmanager
    def attached(self) -> Iterator[PeftModel]:
        """The base with this training's adapter attached; bare again afterwards."""
        with self.engine.attached(self.key) as model:
            yield model

    def leave(self) -> None:
        """Give the slot up."""
        self.engine.leave(self.key)


def share_of_time(results: Mapping[K, StepResult], seconds: float) -> dict[K, float]:
    """A step's time divided among its slots by their tokens."""
    tokens = sum(result.tokens for result in results.values())
    return {key: seconds * result.tokens / tokens for key, result in results.items()}
