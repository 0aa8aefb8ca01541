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


def board(ranking: Sequence[FrozenTrial], ladder: Ladder, *, trials: int, begun: int, seconds: float) -> Board:
    """The best trials so far, and how long the rest may take.

    `ranking` are the trials with a value, best first; `begun` of `trials` have begun, `seconds` ago the first.
    """
    done = sum(len(trial.intermediate_values) for trial in ranking)
    left = max(0, segments(trials, ladder) - done)
    title = f"{begun} of {trials} trials begun"
    if done:
        title += f", about {minutes(seconds / done * left)} of search left"
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
    speed = f"{known['tokens'] / known['seconds']:.0f}" if known.get("seconds") else ""
    waits = known.get("sent") == len(trial.intermediate_values)
    state = STATES.get(trial.state, "waits" if waits else "trains")
    loss = trial.intermediate_values[reached]
    return str(trial.number), f"{reached}%", f"{loss:.3f}", speed, state, describe(trial.params)
