"""Decide whether a candidate passes its policy's gates: pass, fail, or inconclusive."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tunesmith.config.policy import Limit, NonInferiority, Policy, Superiority
from tunesmith.records import Decision, GateResult, Scores, Verdict
from tunesmith.stats.multiple import holm_divisors
from tunesmith.stats.paired import Difference, paired_difference

Paired = Superiority | NonInferiority


@dataclass(frozen=True)
class Evidence:
    """What a gate may look at: the candidate's metrics, and scores on the same holdout items.

    `champion` is None when no version is champion yet; the base then stands in as rival.
    """

    metrics: Mapping[str, float]
    candidate: Scores
    base: Scores
    champion: Scores | None = None

    def rival(self, gate: Paired) -> tuple[str, Scores]:
        """Whom a gate compares the candidate with."""
        if gate.rule.endswith("champion") and self.champion is not None:
            return "champion", self.champion
        return "base", self.base


@dataclass(frozen=True)
class Comparison:
    """A gate's rival and the difference from it, or why there is none."""

    rival: str
    difference: Difference | None
    problem: str = ""
    lower: bool = False
    """Whether less of the metric is better, so that the difference is the rival's value minus the candidate's."""
    unit: bool = False
    """Whether every item's value lies between 0 and 1, so that a difference can be told in points."""


def decide(policy: Policy, evidence: Evidence) -> Verdict:
    """Judge every gate of a policy; its superiority gates share their error rate by Holm's procedure."""
    rival = "champion" if evidence.champion else "base"
    compared = {n: compare(gate, evidence) for n, gate in enumerate(policy.gates) if not isinstance(gate, Limit)}
    divisors = shared_error(policy, compared)
    results = tuple(
        judge_limit(gate, evidence.metrics)
        if isinstance(gate, Limit)
        else judge_paired(gate, compared[n], divisor=divisors.get(n, 1))
        for n, gate in enumerate(policy.gates)
    )
    return Verdict(rival=rival, gates=step_down(results, compared, divisors))


def judge(gate: Superiority | NonInferiority | Limit, evidence: Evidence) -> GateResult:
    """Judge one gate alone."""
    if isinstance(gate, Limit):
        return judge_limit(gate, evidence.metrics)
    return judge_paired(gate, compare(gate, evidence), divisor=1)


def shared_error(policy: Policy, compared: Mapping[int, Comparison]) -> dict[int, int]:
    """What each superiority gate's error rate is divided by."""
    family = [
        (n, comparison.difference.p_value)
        for n, comparison in compared.items()
        if isinstance(policy.gates[n], Superiority) and comparison.difference is not None
    ]
    return dict(zip((n for n, _ in family), holm_divisors([p for _, p in family]), strict=True))


def step_down(
    results: Sequence[GateResult], compared: Mapping[int, Comparison], divisors: Mapping[int, int]
) -> tuple[GateResult, ...]:
    """After the first superiority gate that does not pass, those with larger p-values do not pass either."""
    order = sorted(divisors, key=lambda n: -divisors[n])
    judged = list(results)
    stopped = False
    for n in order:
        if stopped and judged[n].decision is Decision.PASS:
            detail = f"{judged[n].detail}; another metric with stronger evidence did not pass (Holm)"
            judged[n] = replace(judged[n], decision=Decision.INCONCLUSIVE, detail=detail)
        stopped = stopped or judged[n].decision is not Decision.PASS
    return tuple(judged)


def compare(gate: Paired, evidence: Evidence) -> Comparison:
    """A gate's metric, candidate against rival, item by item."""
    name, rival = evidence.rival(gate)
    if rival.digest != evidence.candidate.digest:
        return Comparison(name, None, f"the {name} was scored on other items, tasks or settings; score it again")
    lower = gate.metric.partition("/")[2] in (evidence.candidate.lower_is_better or ())
    try:
        ours, theirs = values_of(gate.metric, evidence.candidate), values_of(gate.metric, rival)
        ours, theirs = (theirs, ours) if lower else (ours, theirs)
        difference = paired_difference(ours, theirs, evidence.candidate.groups, confidence=gate.confidence)
    except (KeyError, ValueError) as error:
        return Comparison(name, None, f"cannot be compared: {error}")
    unit = all(0 <= value <= 1 for value in (*ours.values(), *theirs.values()))
    return Comparison(name, difference, lower=lower, unit=unit)


def values_of(metric: str, scores: Scores) -> dict[str, float]:
    """The value of one metric `split/task/name` for each item that has it; raises `KeyError` or `ValueError`."""
    _, task, name = metric.split("/")
    values = scores.values(task, name)
    if not values:
        raise KeyError(name)
    return values


def judge_paired(gate: Paired, comparison: Comparison, *, divisor: int) -> GateResult:
    """Judge a comparison, its error rate divided by `divisor`."""
    if comparison.difference is None:
        return GateResult(gate.metric, gate.rule, Decision.INCONCLUSIVE, comparison.problem)
    threshold = -gate.margin if isinstance(gate, NonInferiority) else 0.0
    confidence = 1 - (1 - gate.confidence) / divisor
    difference = comparison.difference.at(confidence)
    decision = side(difference, threshold=threshold)
    wanting = ""
    if decision is Decision.INCONCLUSIVE:
        wanting = what_would_pass(difference, threshold=threshold, points=comparison.unit)
    holm = f" (Holm: error shared by {divisor} metrics)" if divisor > 1 else ""
    side_of = " (less is better)" if comparison.lower else ""
    detail = (
        f"{difference.mean:+.3f}{side_of} against the {comparison.rival}, {100 * confidence:.4g}% one-sided bounds "
        f"{difference.low:+.3f} to {difference.high:+.3f} on {difference.items} items{holm}; "
        f"must lie above {f'{threshold:+.3f}' if threshold else '0'}{f'; {wanting}' if wanting else ''}"
    )
    interval = (difference.low, difference.high)
    return GateResult(gate.metric, gate.rule, decision, detail, difference.mean, interval, wanting)


def what_would_pass(difference: Difference, *, threshold: float, points: bool) -> str:
    """How much more difference, or how many more items at the same one, would lift the lower bound above.

    The bound's distance from the mean shrinks with the square root of the number of items.
    """
    lack = difference.low - threshold
    more = f"{math.ceil(-lack * 1000 + 1e-9) / 10:+.1f} points" if points else f"{-lack:+.3g}"
    lead = difference.mean - threshold
    if lead <= 0:
        return f"passes with {more}; no number of items would do at this difference"
    items = math.ceil(difference.items * ((difference.mean - difference.low) / lead) ** 2) - difference.items
    return f"passes with {more} or {max(1, items)} more items"


def judge_limit(gate: Limit, metrics: Mapping[str, float]) -> GateResult:
    """Judge a fixed limit."""
    if gate.metric not in metrics:
        detail = "was never logged on the candidate's run"
        return GateResult(gate.metric, gate.rule, Decision.INCONCLUSIVE, detail)
    value = metrics[gate.metric]
    passed = value >= gate.value if gate.rule == "at_least" else value <= gate.value
    detail = f"{value:g}, must be {gate.rule.replace('_', ' ')} {gate.value:g}"
    return GateResult(gate.metric, gate.rule, Decision.PASS if passed else Decision.FAIL, detail)


def side(difference: Difference, *, threshold: float) -> Decision:
    """On which side of a threshold the whole interval lies; inconclusive when it straddles it."""
    if difference.low > threshold:
        return Decision.PASS
    return Decision.FAIL if difference.high < threshold else Decision.INCONCLUSIVE


def unknown_metrics(policy: Policy, evidence: Evidence) -> list[int]:
    """Numbers of the gates whose metric was never logged: it cannot be judged, now or later."""
    unknown = []
    for n, gate in enumerate(policy.gates):
        if isinstance(gate, Limit):
            known = gate.metric in evidence.metrics
        else:
            split, _, rest = gate.metric.partition("/")
            task, _, name = rest.partition("/")
            items = evidence.candidate.items.get(task, {})
            known = split == "holdout" and any(name in values for values in items.values())
        if not known:
            unknown.append(n)
    return unknown
