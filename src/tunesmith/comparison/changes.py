"""The items on which two models differ, side by side. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.records import Scores

LEAST = 1e-9


@dataclass(frozen=True)
class Change:
    """One item of a task: what both models scored and replied.

    `gain` is that of the first of its metrics that changed, positive where the second model is better.
    """

    task: str
    item: str
    gain: float
    values: Mapping[str, tuple[float, float]]
    """By the metric's name within its task."""
    target: str
    replies: tuple[str, str]
    """Empty where replies were not kept with the scores."""


def changed(first: Scores, second: Scores, metrics: Sequence[str], *, lower: Iterable[str]) -> tuple[Change, ...]:
    """The items whose values differ, task by task, those that lost most first.

    A task's items are ordered by the first of its metrics, then the next. Where it has a metric that is right or
    wrong, only items on which that one differs count: a likelihood changes on every item.
    """
    tasks: dict[str, list[str]] = {}
    for metric in metrics:
        task, _, name = metric.partition("/")
        tasks.setdefault(task, []).append(name)
    found: list[Change] = []
    for task, names in tasks.items():
        signs = {name: -1 if f"{task}/{name}" in lower else 1 for name in names}
        found += _changed_in(task, signs, first, second)
    return tuple(found)


def _changed_in(task: str, signs: Mapping[str, int], first: Scores, second: Scores) -> list[Change]:
    ours, theirs = first.items[task], second.items[task]
    binary = [
        name
        for name in signs
        if {*first.values(task, name).values(), *second.values(task, name).values()} <= {0.0, 1.0}
    ]
    samples = [samples_of(held, task) for held in (first, second)]
    found: list[tuple[list[float], Change]] = []
    for item, values in ours.items():
        both = {name: (values[name], theirs[item][name]) for name in signs if name in values}
        gain_of = {name: signs[name] * (after - before) for name, (before, after) in both.items()}
        first_asked = [name for name in binary if name in both]
        gains = [gain_of[name] for name in [*first_asked, *both]]
        if any(abs(gain) > LEAST for gain in (gains[: len(first_asked)] or gains)):
            told = samples[0].get(item, {}), samples[1].get(item, {})
            replies = reply(told[0]), reply(told[1])
            first_gain = next(gain for gain in gains if abs(gain) > LEAST)
            found.append((gains, Change(task, item, first_gain, both, target(told[0]), replies)))
    return [change for _, change in sorted(found, key=lambda pair: (pair[0], pair[1].item))]


def samples_of(scores: Scores, task: str) -> dict[str, Mapping[str, Any]]:
    """What was kept of each item of a task; of a task measured in several ways, of the first."""
    found: dict[str, Mapping[str, Any]] = {}
    for sample in scores.samples:
        if sample["task"].partition(".")[0] == task:
            found.setdefault(sample["id"], sample)
    return found


def reply(sample: Mapping[str, Any]) -> str:
    """What a model answered: its text, or the choice that it finds most likely."""
    kept = sample.get("filtered_resps") or []
    if kept and isinstance(kept[0], str):
        return str(kept[0])
    if len(kept) > 1:
        likely = max(range(len(kept)), key=lambda n: likelihood(kept[n]))
        return f"choice {likely + 1} of {len(kept)}"
    return f"log-likelihood {likelihood(kept[0]):.1f}" if kept else ""


def likelihood(answer: Any) -> float:
    """The log-likelihood in one of lm-eval's answers: of plain text the number itself, else the first of a pair."""
    return float(answer if isinstance(answer, int | float) else answer[0])


def target(sample: Mapping[str, Any]) -> str:
    """The right answer."""
    right = sample.get("target", "")
    return f"choice {right + 1}" if isinstance(right, int) else str(right)
