"""What the scores of several models say about each other. Pure."""

import difflib
import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.comparison.changes import Change, changed
from tunesmith.comparison.judging import Judgement
from tunesmith.errors import ConfigError, EvaluationError
from tunesmith.records import Scores
from tunesmith.stats.effects import CONFIDENCE, Effect, effect, needed_items
from tunesmith.stats.multiple import holm_adjusted

ALPHA = 1 - CONFIDENCE
LOWER_BEFORE = "perplexity"
"""The one metric of which less is better in scores written before directions were recorded."""


class Outcome(enum.StrEnum):
    """What a difference means for the model that is compared with the first."""

    BETTER = "better"
    WORSE = "worse"
    MIXED = "mixed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Result:
    """One metric `task/name` of one model against the first model's.

    `adjusted` is the p-value among all metrics and models (Holm); `whole` the two models' own metrics, which differ
    from the means over items where a metric is no such mean.
    """

    metric: str
    rival: int
    """Which of the models is compared with the first."""
    effect: Effect
    adjusted: float
    detectable: float
    needed: int
    """Items that would tell the present difference; 0 where no number would."""
    lower_is_better: bool
    whole: tuple[float, float] | None

    @property
    def gain(self) -> float:
        """The difference, positive where the model is better than the first."""
        return -self.effect.difference if self.lower_is_better else self.effect.difference

    @property
    def gain_interval(self) -> tuple[float, float]:
        """The interval of `gain`."""
        low, high = self.effect.low, self.effect.high
        return (-high, -low) if self.lower_is_better else (low, high)

    @property
    def outcome(self) -> Outcome:
        """Better or worse where the difference is beyond doubt among all that were asked for."""
        return self._outcome(self.adjusted)

    @property
    def alone(self) -> Outcome:
        """What the outcome would be if nothing else had been asked for."""
        return self._outcome(self.effect.p_value)

    def _outcome(self, p_value: float) -> Outcome:
        if p_value > ALPHA or not self.gain:
            return Outcome.INCONCLUSIVE
        return Outcome.BETTER if self.gain > 0 else Outcome.WORSE


@dataclass(frozen=True)
class Comparison:
    """Models against the first of them, on the same items."""

    names: tuple[str, ...]
    split: str
    digest: str
    items: int
    groups: int
    results: tuple[Result, ...]
    changes: tuple[tuple[Change, ...], ...]
    """The items that changed, worst first, for each model but the first."""
    notes: tuple[str, ...] = ()
    judged: Judgement | None = None
    """What a judge said of the replies, where one was asked."""

    def of(self, rival: int) -> list[Result]:
        """The results of one model."""
        return [result for result in self.results if result.rival == rival]

    def outcome(self, rival: int) -> Outcome:
        """A model as a whole: better where it is on some metric and worse on none, mixed where it is both."""
        found = {result.outcome for result in self.of(rival)} - {Outcome.INCONCLUSIVE}
        return Outcome.MIXED if len(found) == 2 else next(iter(found), Outcome.INCONCLUSIVE)

    def sentence(self, rival: int) -> str:
        """The outcome in words."""
        results, first, name = self.of(rival), self.names[0], self.names[rival]
        named = {kind: [r.metric for r in results if r.outcome is kind] for kind in Outcome}
        better, worse = ", ".join(named[Outcome.BETTER]), ", ".join(named[Outcome.WORSE])
        rest = len(named[Outcome.INCONCLUSIVE])
        tail = f"; inconclusive on {rest} of {len(results)} metrics" if rest else ""
        match self.outcome(rival):
            case Outcome.MIXED:
                return f"{name} is better than {first} on {better} and worse on {worse}{tail}"
            case Outcome.BETTER | Outcome.WORSE as outcome:
                return f"{name} is {outcome} than {first} on {better or worse}{tail}"
        return f"inconclusive: {name} and {first} cannot be told apart on any of {len(results)} metrics"


def analyse(names: Sequence[str], scores: Sequence[Scores], *, split: str, metrics: Sequence[str] = ()) -> Comparison:
    """Compare each model with the first on some or all metrics; their errors are shared by Holm's procedure.

    `scores` hold the same items, see `matching`. Raises `ConfigError` for an unknown metric.
    """
    asked = chosen_metrics(scores[0], metrics, split=split)
    pairs = [(metric, rival) for rival in range(1, len(scores)) for metric in asked]
    effects = [compare_metric(scores[0], scores[rival], metric) for metric, rival in pairs]
    adjusted = holm_adjusted([found.p_value for found in effects])
    results = tuple(
        Result(
            metric=metric,
            rival=rival,
            effect=found,
            adjusted=p_value,
            detectable=found.detectable(alpha=ALPHA / len(pairs)),
            needed=needed_items(found, alpha=ALPHA / len(pairs)),
            lower_is_better=is_lower_better(scores[0], metric),
            whole=whole(scores[0], scores[rival], f"{split}/{metric}", found),
        )
        for (metric, rival), found, p_value in zip(pairs, effects, adjusted, strict=True)
    )
    ids = {item for task in {metric.partition("/")[0] for metric in asked} for item in scores[0].items[task]}
    lower = {metric for metric in asked if is_lower_better(scores[0], metric)}
    return Comparison(
        names=tuple(names),
        split=split,
        digest=scores[0].digest,
        items=len(ids),
        groups=len({scores[0].groups[item] for item in ids}),
        results=results,
        changes=tuple(changed(scores[0], rival, asked, lower=lower) for rival in scores[1:]),
    )


def chosen_metrics(scores: Scores, metrics: Sequence[str], *, split: str) -> list[str]:
    """The metrics `task/name` that were asked for, else all that items have."""
    known = [f"{task}/{name}" for task in scores.items for name in scores.names(task)]
    if not known:
        raise EvaluationError("the scores hold no items; score the models again")
    asked = [metric.strip().removeprefix(f"{split}/") for metric in metrics]
    for metric in asked:
        if metric not in known:
            near = difflib.get_close_matches(metric, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"--metrics: {metric}: no item has this metric; {hint}")
    return list(dict.fromkeys(asked)) or known


def compare_metric(first: Scores, second: Scores, metric: str) -> Effect:
    """The difference on one metric; raises `EvaluationError` for values that are no numbers."""
    values = [values_of(held, metric) for held in (first, second)]
    for item, value in (pair for held in values for pair in held.items()):
        if not math.isfinite(value):
            raise EvaluationError(f"{metric}: the value of item {item} is {value}; leave the metric out with --metrics")
    return effect(values[0], values[1], first.groups)


def values_of(scores: Scores, metric: str) -> dict[str, float]:
    """The value of a metric `task/name` for each item that has it."""
    task, _, name = metric.partition("/")
    return scores.values(task, name)


def is_lower_better(scores: Scores, metric: str) -> bool:
    """Whether less is better."""
    if scores.lower_is_better is None:
        return metric.rpartition("/")[2] == LOWER_BEFORE
    return metric in scores.lower_is_better


def whole(first: Scores, second: Scores, name: str, found: Effect) -> tuple[float, float] | None:
    """Two models' own metric, where that is no mean over items; else None."""
    if name not in first.metrics or name not in second.metrics:
        return None
    own = first.metrics[name], second.metrics[name]
    means = (found.first, found.second)
    return None if all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(own, means, strict=True)) else own
