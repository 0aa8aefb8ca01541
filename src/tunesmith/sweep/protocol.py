"""What coordinator and worker say to each other. Plain records, so that any transport can carry them."""

from dataclasses import dataclass, field
from typing import Literal

from tunesmith.config.experiment import Experiment
from tunesmith.records import Beaten, Scores, TrainedRun

CHECKPOINTS = "checkpoints"
"""Where the checkpoints of a training lie, below its job's folder."""

Items = Literal["trial", "confirmation", "tune", "holdout", "bench"]
"""A split; or of tune a few rows (trial), or all rows of the primary metric's file and a few others (confirmation)."""


@dataclass(frozen=True)
class Rival:
    """A trial that another is raced against: its number, and its value for each item of the primary metric."""

    trial: int
    values: dict[str, float]


@dataclass(frozen=True)
class Job:
    """One piece of work: train `experiment` and score the result, or only score.

    Without `train`, `adapter` is the folder of the adapter to score; None scores the bare base.
    Tune loss is reported at `fractions` of the training, over `loss_rows` tune rows (all when None); where nothing is
    trained it is measured with the scores if `loss_rows` is given.
    """

    experiment: Experiment
    items: Items
    folder: str
    train: bool = True
    adapter: str | None = None
    fractions: tuple[float, ...] = (1.0,)
    loss_rows: int | None = None
    tasks: tuple[str, ...] = ()
    """Which tasks and suites to score; all tasks and no suite when empty."""
    slots: bool = False
    """Train in the slots engine where that covers the experiment."""
    rival: Rival | None = None
    """Stop scoring when the result is beyond doubt worse than this trial's."""


@dataclass(frozen=True)
class Segment:
    """Train a job from its newest checkpoint (below the job's folder) to a share of the whole, then save it.

    At the end of the training (`until` is 1) the adapter is scored too. `key` names the training. A fresh
    one begins with the weights last saved below another job's folder, `start`, if that is given.
    """

    key: str
    job: Job
    until: float
    start: str | None = None


@dataclass(frozen=True)
class Calibrate:
    """Measure how many tokens a pass should hold, with the rows and the adapter of this experiment."""

    experiment: Experiment


@dataclass(frozen=True)
class Sharing:
    """How slots share passes (`train.slots.passes.Limits`), and how many tokens a row has on average.

    `ratios` are the measured fused / solo times by tokens a slot; empty where the engine trains nothing.
    """

    fuse: int
    most: int
    row_tokens: float
    ratios: dict[int, float] = field(default_factory=dict)

    def seats(self, smallest_batch: int) -> int:
        """How many trainings to run side by side: as many as still share a pass, at most 8; 1 is solo."""
        return max(1, min(MOST_SEATS, int(self.fuse / (self.row_tokens * smallest_batch))))


MOST_SEATS = 8


@dataclass(frozen=True)
class Train:
    """Run these segments side by side; each end is answered with a `Join`."""

    segments: tuple[Segment, ...]
    sharing: Sharing


@dataclass(frozen=True)
class Join:
    """The answer to an `Ended`: segments that take the free places, perhaps none."""

    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True)
class Stop:
    """Finish the step, save every training, say `Interrupted`."""


@dataclass(frozen=True)
class Ready:
    """The worker has loaded its model: what it is and where it runs."""

    base_sha256: str
    base_revision: str | None
    placement: str
    threads: int


@dataclass(frozen=True)
class Beat:
    """A sign of life, so that a worker that hangs can be told from one that works."""


@dataclass(frozen=True)
class Begun:
    """A training of so many optimiser steps begins, or goes on after `step` of them."""

    key: str
    steps: int
    step: int = 0


@dataclass(frozen=True)
class Routed:
    """The library that trains a segment, and why that is not the slots engine; no reason if it is."""

    key: str
    engine: str
    reason: str | None = None


@dataclass(frozen=True)
class Inherited:
    """A fresh training begins with the weights that another had after so many steps."""

    key: str
    step: int


@dataclass(frozen=True)
class Warned:
    """Something a person should know that stops nothing, in one line."""

    key: str
    text: str


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of an optimiser step."""

    key: str
    values: dict[str, float]
    step: int


@dataclass(frozen=True)
class Rung:
    """A share of the training is done, and this was its tune loss."""

    key: str
    fraction: float
    step: int
    tune_loss: float


@dataclass(frozen=True)
class Paused:
    """A segment reached its end, which was not the end of the training; the checkpoint is on disk.

    `tokens` and `seconds` count the whole training so far; it will have taken `steps` steps at its end.
    """

    fraction: float
    step: int
    steps: int
    tune_loss: float
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Done:
    """The job ended well.

    `beaten` says that scoring stopped early, so that `scores` are those of some items of the primary task only.
    `latency` is the measured time in seconds for each token of the replies; None where none were generated.
    """

    scores: Scores
    trained: TrainedRun | None = None
    beaten: Beaten | None = None
    latency: float | None = None


@dataclass(frozen=True)
class Spent:
    """What a training had taken when it failed: tokens and seconds, at this share of its `steps`."""

    tokens: int
    seconds: float
    steps: int
    fraction: float


@dataclass(frozen=True)
class Failed:
    """The job ended with an error of its own making; `user_error` says that its message is for people.

    `spent` is known where the training had begun.
    """

    message: str
    user_error: bool
    trace: str = field(default="", repr=False)
    spent: Spent | None = None


@dataclass(frozen=True)
class Refused:
    """A segment could not begin, and its parameters are not to blame; the reason is for people."""

    reason: str


Outcome = Paused | Done | Failed | Refused


@dataclass(frozen=True)
class Ended:
    """A segment ended; the worker waits for a `Join`."""

    key: str
    outcome: Outcome


@dataclass(frozen=True)
class Interrupted:
    """The worker has stopped as asked, and every training is saved."""


Order = Job | Calibrate | Train | Join | Stop | None
"""What a worker is told; None ends it."""
News = Begun | Routed | Inherited | Warned | StepMetrics | Rung
"""How a training goes."""
Message = Ready | Beat | News | Ended | Done | Failed | Sharing | Interrupted
