"""What coordinator and worker say to each other. Plain records, so that any transport can carry them."""

from dataclasses import dataclass, field
from typing import Literal

from tunesmith.config.experiment import Experiment
from tunesmith.records import Scores, TrainedRun

Items = Literal["trial", "confirmation", "tune", "holdout", "bench"]
"""A split; or of tune a few rows (trial), or all rows of the primary metric's file and a few others (confirmation)."""


@dataclass(frozen=True)
class Job:
    """One piece of work: train `experiment` and score the result, or only score.

    Without `train`, `adapter` is the folder of the adapter to score; None scores the bare base.
    Tune loss is reported at `fractions` of the training, over `loss_rows` tune rows (all when None).
    """

    experiment: Experiment
    items: Items
    folder: str
    train: bool = True
    adapter: str | None = None
    fractions: tuple[float, ...] = (1.0,)
    loss_rows: int | None = None
    slots: bool = False
    """Train in the slots engine where that covers the experiment."""


@dataclass(frozen=True)
class Ready:
    """The worker has loaded its model: what it is and where it runs."""

    base_sha256: str
    base_revision: str | None
    placement: str
    threads: int


@dataclass(frozen=True)
class Begun:
    """A training of so many optimiser steps has begun."""

    steps: int


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of an optimiser step."""

    values: dict[str, float]
    step: int


@dataclass(frozen=True)
class Rung:
    """A share of the training is done; the worker waits for a bool that says whether to go on."""

    fraction: float
    step: int
    tune_loss: float


@dataclass(frozen=True)
class Done:
    """The job ended well."""

    scores: Scores
    trained: TrainedRun | None = None


@dataclass(frozen=True)
class Stopped:
    """The job was stopped at a rung."""


@dataclass(frozen=True)
class Failed:
    """The job ended with an error of its own making; `user_error` says that its message is for people."""

    message: str
    user_error: bool
    trace: str = field(default="", repr=False)


Message = Ready | Begun | StepMetrics | Rung | Done | Stopped | Failed
