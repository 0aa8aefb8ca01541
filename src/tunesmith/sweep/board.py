"""The table that a terminal shows while a search goes on. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from tunesmith.progress import describe
from tunesmith.sweep.rungs import Ladder

SHOWN = 8
HEADS = ("trial", "reached", "tune loss", "tokens/s", "state", "parameters")
STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "failed"}


@dataclass(frozen=True)
class Board:
    """A title and rows of text under `HEADS`."""

    title: str
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Pace:
    """How far a search has got: trials that have begun, segments that have ended, `here` in these last `seconds`.

    A process that resumes a sweep knows how long its own segments take, not how long those before it took.
    """

    begun: int
    ended: int
    here: int
    seconds: float


def board(ranking: Sequence[FrozenTrial], ladder: Ladder, *, trials: int, pace: Pace) -> Board:
    """The best trials so far, and how long the rest of `trials` may take; `ranking` has the best first."""
    left = max(0, segments(trials, ladder) - pace.ended)
    title = f"{pace.begun} of {trials} trials begun"
    if pace.here:
        title += f", about {minutes(pace.seconds / pace.here * left)} of search left"
    return Board(title, [_row(trial) for trial in ranking[:SHOWN]])


def segments(trials: int, ladder: Ladder) -> int:
    """About how many segments a search of so many trials has."""
    total, going = 0, trials
    for _ in ladder.rungs:
        total += going
        going = max(going // ladder.reduction, min(going, ladder.finishers))
    return total


def minutes(seconds: float) -> str:
    """A rough duration."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _row(trial: FrozenTrial) -> tuple[str, ...]:
    known, reached = trial.user_attrs, max(trial.intermediate_values)
    spent = known.get("spent", {})
    speed = f"{spent['tokens'] / spent['seconds']:.0f}" if spent.get("seconds") else ""
    waits = known.get("sent") == len(trial.intermediate_values)
    state = STATES.get(trial.state, "waits" if waits else "trains")
    loss = trial.intermediate_values[reached]
    return str(trial.number), f"{reached}%", f"{loss:.3f}", speed, state, describe(trial.params)
