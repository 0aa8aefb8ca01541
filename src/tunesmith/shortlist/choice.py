"""Which candidate to tune. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.shortlist.entry import BITS, FEW_SHOT, Entry, Estimate
from tunesmith.stats.effects import Effect, effect


@dataclass(frozen=True)
class Limits:
    """What a candidate must fit into: this machine's memory, with the experiment's kind of adapter."""

    memory_mb: float
    adapter: str


@dataclass(frozen=True)
class Choice:
    """The recommended candidate, if there is one, why, and the few-shot metric that decided."""

    reference: str | None
    reason: str
    metric: str


def unfit(entry: Entry, limits: Limits) -> str:
    """Why a candidate cannot be recommended; empty if it can."""
    facts = entry.facts
    if facts is None or not entry.scores.get(FEW_SHOT):
        return entry.notes[0] if entry.notes else "not scored"
    needed = facts.memory_mb[limits.adapter]
    if needed > limits.memory_mb:
        return f"needs about {needed:.0f} MiB to tune, {limits.memory_mb:.0f} are there"
    if facts.context is not None and facts.tokens[2] > facts.context:
        return f"1% of the rows have {facts.tokens[2]} tokens or more, its window is {facts.context}"
    return ""


def recommend(entries: Sequence[Entry], limits: Limits, *, primary: str, groups: Mapping[str, str]) -> Choice:
    """The fitting candidate with the best few-shot score, or the smallest that is not worse beyond doubt.

    Beyond doubt: the 95% interval of the paired difference (`stats.effects`) excludes 0. `primary` decides, and
    where no candidate scores above 0 in it (or it was not scored), the bits per byte of the reference replies.
    """
    fitting = [entry for entry in entries if not unfit(entry, limits)]
    if not fitting:
        first = next((f"; {entry.reference}: {unfit(entry, limits)}" for entry in entries), "")
        return Choice(None, f"none: no candidate was scored and fits{first}", primary)
    told = all(primary in e.scores[FEW_SHOT] for e in fitting) and any(_few(e, primary).mean > 0 for e in fitting)
    metric = primary if told else BITS
    sign = -1 if metric == BITS else 1
    best = max(fitting, key=lambda entry: sign * _few(entry, metric).mean)
    for entry in sorted(fitting, key=_size):
        against = effect(_few(entry, metric).values, _few(best, metric).values, groups)
        if entry is best or not _beyond_doubt(against, sign):
            reason = f"{_reason(entry, best, metric, against, len(fitting))}{_likelier(entry, fitting, groups)}"
            terms = entry.facts.licence.limits if entry.facts is not None else ""
            return Choice(entry.reference, f"{reason}; mind its licence: {terms}" if terms else reason, metric)
    raise AssertionError("the best is among the fitting")


def _few(entry: Entry, metric: str) -> Estimate:
    return entry.scores[FEW_SHOT][metric]


def _size(entry: Entry) -> int:
    assert entry.facts is not None  # noqa: S101 - a fitting candidate has facts
    return entry.facts.parameters


def _beyond_doubt(against: Effect, sign: int) -> bool:
    return against.low > 0 if sign > 0 else against.high < 0


def _reason(entry: Entry, best: Entry, metric: str, against: Effect, fitting: int) -> str:
    value, top = _few(entry, metric).mean, _few(best, metric).mean
    if fitting == 1:
        why = f"the only candidate that was scored and fits; few-shot {metric} {value:.3f}"
    elif entry is best:
        why = f"best few-shot {metric} ({value:.3f}) of {fitting} candidates that fit"
    else:
        bounds = f"{against.low:+.3f} to {against.high:+.3f}"
        why = (
            f"few-shot {metric} {value:.3f} against {top:.3f} of {best.reference}, a difference that is not beyond "
            f"doubt (95% interval {bounds}), with {_size(entry) / _size(best):.0%} of its weights"
        )
    return why


def _likelier(entry: Entry, fitting: Sequence[Entry], groups: Mapping[str, str]) -> str:
    """Whether another candidate finds the reference replies likelier beyond doubt, which may count once it is tuned."""
    best = min(fitting, key=lambda other: _few(other, BITS).mean)
    against = effect(_few(entry, BITS).values, _few(best, BITS).values, groups)
    if not _beyond_doubt(against, -1):
        return ""
    return (
        f"; the reference replies are likelier under {best.reference}, though: {against.second:.3f} bits a byte "
        f"against {against.first:.3f}"
    )
