"""What came of a sweep's trials, and what follows from it: ranking, tokens saved, energy. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from optuna.distributions import BaseDistribution

from tunesmith.train.curves import overfitting_step

State = Literal["complete", "halved", "infeasible", "failed"]
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class TrialRecord:
    """How one trial ended.

    States: `complete` (trained in full), `halved`, `infeasible` (its parameters made it fail) and
    `failed` (a fault of the machine; such a trial is repeated under another number).
    """

    number: int
    params: Mapping[str, Any]
    """Values by dotted experiment field."""
    state: State
    reason: str
    losses: Mapping[int, float]
    """Tune loss by the percentage of the trial's own training after which it was taken."""
    steps: int
    """Optimiser steps of the whole training, also where it was not gone through."""
    curve: tuple[tuple[int, float], ...]
    """(Optimiser step, train loss) points; not all steps need be there."""
    tokens: int
    """Tokens trained."""
    full_tokens: int
    """Tokens that the whole training takes."""
    seconds: float
    """Time spent training; of time that trials shared, each trial's share."""
    primary: float | None
    """The primary score, if the trial was scored."""
    run_id: str
    source: str
    """What proposed it, such as `grid`, `tpe` or `added`."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """What it costs beside its loss, by name; a latency only where the trial was scored."""
    raced: str = ""
    """Why its scoring stopped early, if it did; such a trial is never the best."""

    @property
    def judged(self) -> dict[int, float]:
        """The finite tune losses in the order of training."""
        return {percent: loss for percent, loss in sorted(self.losses.items()) if math.isfinite(loss)}

    @property
    def last_loss(self) -> float | None:
        """The finite tune loss taken last."""
        return next(reversed(self.judged.values()), None)


@dataclass(frozen=True)
class ConfirmationRecord:
    """A trial trained again from a fresh seed."""

    trial: int
    seed: int
    run_id: str
    loss: float
    primary: float


@dataclass(frozen=True)
class SweepRecord:
    """A sweep with all its trials. `winner` is the trial that was chosen; None: not chosen yet."""

    experiment: str
    run_id: str
    """The parent run."""
    primary_metric: str
    base_primary: float | None
    base_loss: float | None
    trials: tuple[TrialRecord, ...]
    confirmations: tuple[ConfirmationRecord, ...]
    rungs: tuple[float, ...]
    """Shares of its training after which a trial is judged; the last is 1."""
    workers: int
    devices: int
    """CUDA devices that the workers sit on; 1 where they share a CPU."""
    placement: str
    seconds: float
    """Wall time of search and confirmation, over all processes that ran the sweep."""
    watts: float | None
    """Power that each device is assumed to draw."""
    distributions: Mapping[str, BaseDistribution]
    """The search space in Optuna's terms, by dotted experiment field."""
    winner: int | None = None
    costs: tuple[str, ...] = ()
    """Names of the costs that were to be small beside the loss."""

    @property
    def percents(self) -> tuple[int, ...]:
        """The rungs as percentages, as the keys of a trial's losses."""
        return tuple(max(1, round(100 * rung)) for rung in self.rungs)

    @property
    def best(self) -> TrialRecord | None:
        """The winner, else the first of the ranking."""
        chosen = [trial for trial in self.trials if trial.number == self.winner]
        return next(iter([*chosen, *self.ranking()]), None)

    def ranking(self) -> list[TrialRecord]:
        """Trials that count and have a loss, best first: the further one got, then the lower its loss."""
        counted = [t for t in self.trials if t.state in {"complete", "halved"} and t.judged and not t.raced]
        return sorted(counted, key=lambda trial: (-max(trial.judged), list(trial.judged.values())[-1], trial.number))


def overfitting_point(trial: TrialRecord) -> tuple[float, float] | None:
    """Where a trial begins to overfit, as share of its training in percent and tune loss there; None if it does not."""
    train = [(100 * step / trial.steps, loss) for step, loss in trial.curve if trial.steps and math.isfinite(loss)]
    percent = overfitting_step(train, list(trial.judged.items()))
    return None if percent is None else (percent, trial.judged[int(percent)])


def front(record: SweepRecord) -> list[TrialRecord]:
    """The trials trained in full that no other beats in loss and in every cost (the Pareto front), by loss."""
    known = weighed(record)
    values = {t.number: (t.last_loss or 0.0, *(t.costs[name] for name in record.costs)) for t in known}
    best = [t for t in known if not any(beats(other, values[t.number]) for other in values.values())]
    return sorted(best, key=lambda t: values[t.number])


def weighed(record: SweepRecord) -> list[TrialRecord]:
    """The trials trained in full of which the loss and every cost is known."""
    whole = [trial for trial in record.trials if trial.state == "complete" and trial.last_loss is not None]
    return [trial for trial in whole if record.costs and trial.costs.keys() >= set(record.costs)]


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one is nowhere larger than another, and smaller somewhere."""
    return tuple(one) != tuple(other) and all(a <= b for a, b in zip(one, other, strict=True))


@dataclass(frozen=True)
class Cost:
    """Tokens trained, and those that the same trials would have taken without halving.

    An infeasible trial ends where it ends with or without halving, so it counts on both sides with
    what it trained. A failed trial is repeated under another number: what it trained was lost.
    """

    trained: int
    full: int
    lost: int
    seconds: float
    """Training time summed over trials."""
    seconds_saved: float
    """Estimate: what halved trials had left, each at its own pace; 0 where a trial's pace is not known."""

    @property
    def saved(self) -> int:
        """Tokens that halving saved, less those lost to faults; negative where faults cost more."""
        return self.full - self.trained

    @property
    def share(self) -> float:
        """The part of training all trials in full that was saved."""
        return self.saved / self.full if self.full else 0.0


def cost(record: SweepRecord) -> Cost:
    """What the trials of a sweep cost; confirmations and scoring are not in it."""
    halved = [trial for trial in record.trials if trial.state == "halved"]
    left = {trial.number: max(0, trial.full_tokens - trial.tokens) for trial in halved}
    trained = sum(trial.tokens for trial in record.trials)
    lost = sum(trial.tokens for trial in record.trials if trial.state == "failed")
    return Cost(
        trained=trained,
        full=trained - lost + sum(left.values()),
        lost=lost,
        seconds=sum(trial.seconds for trial in record.trials),
        seconds_saved=sum(left[t.number] * t.seconds / t.tokens for t in halved if t.tokens),
    )


def energy(record: SweepRecord) -> float | None:
    """Estimated energy in kWh: the assumed power of every device over the whole wall time."""
    return None if record.watts is None else record.watts * record.devices * record.seconds / JOULES_PER_KWH
