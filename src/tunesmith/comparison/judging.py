"""A judge's verdicts on pairs of replies: both orders asked, its position bias told. Pure, but for who is asked."""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.errors import EvaluationError
from tunesmith.stats.effects import CONFIDENCE
from tunesmith.stats.paired import paired_difference

Ask = Callable[[str], str]

LAST_WORD = re.compile(r"\b(first|second|tie)\W*$", re.IGNORECASE)
EVEN = 0.5
FOR_SECOND = {"first": 0.0, "tie": EVEN, "second": 1.0}
"""An answer as preference for the reply that was shown second."""


@dataclass(frozen=True)
class Pair:
    """One conversation, and what two models replied to it: the first model, then the one compared with it."""

    item: str
    conversation: str
    replies: tuple[str, str]


@dataclass(frozen=True)
class Judged:
    """A judge's verdicts on pairs of replies."""

    preferences: Mapping[str, float]
    """By item, the mean over both orders: 1 for the second model's reply, 0 for the first model's, a half for a tie."""
    consistency: float
    """Of the pairs asked, the share in which both orders got the same verdict."""
    position_bias: float
    """Of all answers, the share for the reply shown first minus the share for the one shown second."""
    asked: int
    """Pairs asked: equal replies are not, and count as a tie."""
    unreadable: int
    """Pairs left out because an answer did not end with first, second or tie."""


@dataclass(frozen=True)
class Preference:
    """How much a judge prefers one of several models to the first on a task, with a 95% interval by group."""

    task: str
    rival: int
    mean: float
    low: float
    high: float
    judged: Judged


@dataclass(frozen=True)
class Judgement:
    """All that a judge said in a comparison, or why it said nothing."""

    model: str
    sha256: str
    """Of the judge's file: endpoint, model, prompt and settings."""
    label: str
    """What the names of its metrics end with, where it is not known to judge well."""
    preferences: tuple[Preference, ...] = ()
    failure: str = ""

    def notes(self, names: Sequence[str]) -> list[str]:
        """A line for each preference, or the one that says why there is none."""
        judge = f"judge {self.model}{' (unvalidated)' if self.label else ''}"
        if self.failure:
            return [f"{judge} failed, all else stands: {self.failure}"]
        return [f"{judge}: {sentence(found, names)}" for found in self.preferences]

    def metrics(self, *, several: bool) -> dict[str, float]:
        """Its preferences as metrics of a run; of several models each under its number."""
        values: dict[str, float] = {}
        for found in self.preferences:
            where = f"judge/{found.rival}/{found.task}" if several else f"judge/{found.task}"
            name = f"{where}/preference{self.label}"
            values |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
            values[f"{where}/position_bias"] = found.judged.position_bias
            values[f"{where}/consistency"] = found.judged.consistency
        return values


def judge_pairs(pairs: Sequence[Pair], ask: Ask, prompt: str) -> Judged:
    """Ask about each pair in both orders (Zheng et al., 2023, Judging LLM-as-a-Judge).

    Raises `EvaluationError` when no pair got answers that can be read.
    """
    template = string.Template(prompt)
    preferences: dict[str, float] = {}
    answers: list[tuple[str, str]] = []
    unreadable = 0
    for pair in pairs:
        one, other = pair.replies
        if one == other:
            preferences[pair.item] = EVEN
            continue
        shown = {"conversation": pair.conversation, "first": one, "second": other}
        turned = {**shown, "first": other, "second": one}
        both = last_word(ask(template.safe_substitute(shown))), last_word(ask(template.safe_substitute(turned)))
        if "" in both:
            unreadable += 1
            continue
        answers.append(both)
        preferences[pair.item] = (FOR_SECOND[both[0]] + 1 - FOR_SECOND[both[1]]) / 2
    if unreadable and not answers:
        raise EvaluationError(f"no answer to {unreadable} pairs ends with first, second or tie")
    agreed = sum(FOR_SECOND[one] == 1 - FOR_SECOND[other] for one, other in answers)
    every = [answer for both in answers for answer in both]
    bias = (every.count("first") - every.count("second")) / max(1, len(every))
    return Judged(preferences, agreed / max(1, len(answers)), bias, len(answers), unreadable)


def last_word(answer: str) -> str:
    """The verdict that an answer ends with; empty where it has none."""
    match = LAST_WORD.search(answer)
    return match.group(1).lower() if match else ""


def preference(task: str, rival: int, judged: Judged, groups: Mapping[str, str]) -> Preference:
    """A judge's mean preference on a task; its interval draws whole groups."""
    values = judged.preferences
    spread = paired_difference(values, dict.fromkeys(values, 0.0), groups, confidence=(1 + CONFIDENCE) / 2)
    return Preference(task, rival, spread.mean, spread.low, spread.high, judged)


def sentence(found: Preference, names: Sequence[str]) -> str:
    """A preference in words."""
    judged = found.judged
    parts = [
        f"on {found.task}, replies of {names[found.rival]} are preferred to those of {names[0]} by {found.mean:.3f} "
        f"({EVEN} is even), 95% interval {found.low:.3f} to {found.high:.3f}",
        f"{judged.asked} of {len(judged.preferences)} pairs differ and were asked in both orders",
        *([f"these agree in {judged.consistency:.0%}"] if judged.asked else []),
        *([f"position bias {judged.position_bias:+.3f} to the reply shown first"] if judged.asked else []),
        *([f"{judged.unreadable} pairs got no answer that can be read"] if judged.unreadable else []),
    ]
    return "; ".join(parts)
