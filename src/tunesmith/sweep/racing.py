"""Races between trials: scoring one stops when it is beyond doubt worse than the best trial that was there before.

The worker races; the coordinator says against whom, and records it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.data.digest import digest_of
from tunesmith.records import Beaten, Row, Scores
from tunesmith.stats.racing import beaten, looks
from tunesmith.sweep.protocol import Rival

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def race(
    score: Callable[[Sequence[Row]], Scores], items: Sequence[Row], rival: Rival, primary: str
) -> tuple[Scores, Beaten] | None:
    """Score ever more items of the primary task, in an order that chance has fixed; None if all must be scored.

    `score` is given all items up to a look, so it should remember what it knows. Where the rival was scored on
    other items there is no race.
    """
    ordered = sorted(items, key=lambda row: digest_of(row["id"]))
    for seen in looks(len(ordered)):
        scores = score(ordered[:seen])
        values, sign = signed(scores, primary)
        if not values or not values.keys() <= rival.values.keys():
            return None
        theirs = {item: sign * value for item, value in rival.values.items()}
        found = beaten(values, theirs, scores.groups, items=len(ordered))
        if found is not None:
            return scores, found
    return None


def signed(scores: Scores, primary: str) -> tuple[dict[str, float], int]:
    """The values of the primary metric by item, turned so that more is better, and the sign that did it."""
    _, task, metric = primary.split("/")
    sign = scores.sign(primary)
    return {item: sign * value for item, value in scores.values(task, metric).items()}, sign


def scored(scores: Scores, primary: str) -> dict[str, Any]:
    """What is recorded of a trial that others may be raced against: its score, more being better, and its items."""
    _, task, metric = primary.split("/")
    return {"score": scores.sign(primary) * scores.metrics[primary], "values": scores.values(task, metric)}


def incumbent(trials: Iterable["FrozenTrial"]) -> int | None:
    """The best of the trials that were scored to the end; of equals the first."""
    known = [trial for trial in trials if "scored" in trial.user_attrs]
    best = max(known, key=lambda trial: (trial.user_attrs["scored"]["score"], -trial.number), default=None)
    return None if best is None else best.number


def rival(trial: "FrozenTrial") -> Rival:
    """A scored trial as the one to beat."""
    return Rival(trial.number, trial.user_attrs["scored"]["values"])


def reason(found: Beaten, against: int) -> str:
    """Why a trial was given up."""
    return (
        f"beyond doubt worse than trial {against} on {found.seen} of {found.items} items "
        f"({found.difference:+.3f}, p = {found.p_value:.2g})"
    )
