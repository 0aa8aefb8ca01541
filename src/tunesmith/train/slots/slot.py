"""One adapter in training: weights, gradient, optimiser, place in its data."""

import hashlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from tunesmith.config.experiment import AdapterConfig, Experiment
from tunesmith.config.method import Training
from tunesmith.errors import TrainingError
from tunesmith.train.checkpoint import Checkpoint
from tunesmith.train.encode import Labelled
from tunesmith.train.order import epoch_order, steps_per_epoch
from tunesmith.train.recorder import TrainingData
from tunesmith.train.reference import Reference
from tunesmith.train.slots.batch import texts_of
from tunesmith.train.slots.layout import Layout
from tunesmith.train.slots.objective import OBJECTIVES, Objective
from tunesmith.train.slots.schedule import learning_rate
from tunesmith.train.slots.stack import Member


@dataclass(frozen=True)
class Plan:
    """What one slot trains: encoded rows, adapter, method, seed. Equal plans give equal trainings.

    `reference` is what the policy that the training begins with thinks of replies, `parent` the folder of the
    adapter that it goes on with, if it does. Tune rows are judged by `yardstick`, or by `method` where there is none.
    """

    rows: Sequence[Labelled]
    adapter: AdapterConfig
    method: Training
    seed: int
    reference: Reference = field(default_factory=Reference)
    parent: pathlib.Path | None = None
    yardstick: Training | None = None

    @classmethod
    def of(cls, experiment: Experiment, data: TrainingData) -> "Plan":
        """The plan of an experiment over its encoded rows."""
        method, seed = experiment.method, experiment.seed
        return cls(data.train, experiment.adapter, method, seed, data.reference.in_slots, data.parent, data.yardstick)

    @cached_property
    def objective(self) -> Objective:
        """What is minimised."""
        return OBJECTIVES[self.method.kind](self.method, self.reference)

    @cached_property
    def judge(self) -> Objective:
        """What tune rows are measured by."""
        method = self.yardstick or self.method
        return OBJECTIVES[method.kind](method, self.reference)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return steps_per_epoch(len(self.rows), self.method.batch_size) * self.method.epochs

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to fit."""
        rows = json.dumps([[text.input_ids, text.labels] for text in texts_of(self.rows)]).encode()
        return {
            **{f"adapter.{key}": value for key, value in self.adapter.model_dump(mode="json").items()},
            **{f"method.{key}": value for key, value in self.method.model_dump(mode="json").items()},
            "seed": self.seed,
            "rows": hashlib.sha256(rows).hexdigest(),
        }


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step of a slot did.

    `values` are the objective's means before the step, its loss among them; `grad_norm` is that of the unclipped
    gradient. `tokens` and `supervised` count this step's. With `nonfinite`, nothing was changed.
    """

    step: int
    values: Mapping[str, float]
    grad_norm: float
    learning_rate: float
    tokens: int
    supervised: int
    nonfinite: bool

    @property
    def loss(self) -> float:
        """What is minimised."""
        return self.values["loss"]


class Slot:
    """An adapter's flat weights [size], gradient and AdamW moments (Loshchilov and Hutter, 2019)."""

    def __init__(self, plan: Plan, layout: Layout, weights: torch.Tensor) -> None:
        self.plan, self.layout, self.step, self.tokens = plan, layout, 0, 0
        self.order: tuple[int, list[int]] = (-1, [])
        self.weights = torch.nn.Parameter(weights, requires_grad=True)
        self.gradient = torch.zeros_like(weights)
        decay = plan.method.weight_decay
        self.optimizer = torch.optim.AdamW([self.weights], lr=plan.method.learning_rate, weight_decay=decay, fused=True)

    @property
    def member(self) -> Member:
        """The slot as a part of a stack."""
        return Member(self.layout, self.weights.data, self.gradient, self.plan.adapter.scaling)

    @property
    def done(self) -> bool:
        """Whether all steps of the plan have been taken."""
        return self.step >= self.plan.steps

    def next_rows(self) -> list[Labelled]:
        """The rows of the next optimiser step."""
        if self.done:
            raise TrainingError(f"all {self.plan.steps} steps of this training have been taken")
        rows, size = self.plan.rows, self.plan.method.batch_size
        epoch, batch = divmod(self.step, steps_per_epoch(len(rows), size))
        if self.order[0] != epoch:
            lengths = [len(row.input_ids) for row in rows]
            self.order = (epoch, epoch_order(lengths, batch_size=size, seed=self.plan.seed, epoch=epoch))
        return [rows[n] for n in self.order[1][batch * size : (batch + 1) * size]]

    def update(self, values: Mapping[str, float], rows: Sequence[Labelled]) -> StepResult:
        """Clip by this slot's own norm and step, unless loss or gradient is not finite."""
        method = self.plan.method
        rate = learning_rate(method, self.step, self.plan.steps)
        norm = torch.linalg.vector_norm(self.gradient)
        finite = math.isfinite(norm) and math.isfinite(values["loss"])
        if finite:
            clip = torch.clamp(method.max_grad_norm / (norm + 1e-6), max=1.0)
            if clip < 1:
                self.gradient.mul_(clip)
            self.weights.grad = self.gradient
            self.optimizer.param_groups[0]["lr"] = rate
            self.optimizer.step()
            self.step += 1
        self.gradient.zero_()
        tokens = sum(len(text.input_ids) for text in texts_of(rows))
        self.tokens += tokens
        supervised = sum(row.supervised for row in rows)
        return StepResult(self.step, values, float(norm), rate, tokens, supervised, not finite)

    def checkpoint(self) -> Checkpoint:
        """Everything that a later process needs to go on bit for bit."""
        state = self.optimizer.state[self.weights]
        moments = [state.get(name, torch.zeros_like(self.weights)) for name in ("exp_avg", "exp_avg_sq")]
        tensors = dict(zip(("weights", "exp_avg", "exp_avg_sq"), [self.weights.data, *moments], strict=True))
        return Checkpoint(
            self.step, tensors, {"tokens": self.tokens, "plan": self.plan.fingerprint, "layers": self.layout.names}
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same plan; raises `TrainingError` naming what differs otherwise."""
        ours = {**self.plan.fingerprint, "layers": self.layout.names}
        theirs = {**checkpoint.record["plan"], "layers": checkpoint.record["layers"]}
        changed = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
        if changed:
            raise TrainingError(f"the checkpoint belongs to another training: {', '.join(changed)} differ")
        self.step, self.tokens = checkpoint.step, int(checkpoint.record["tokens"])
        self.weights.data.copy_(checkpoint.tensors["weights"])
        if self.step:
            self.optimizer.state[self.weights] = {
                "step": torch.tensor(float(self.step), device=self.weights.device),
                **{name: checkpoint.tensors[name].to(self.weights) for name in ("exp_avg", "exp_avg_sq")},
            }
