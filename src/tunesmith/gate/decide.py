"""Decide whether a candidate passes its policy's gates: pass, fail, or inconclusive."""

from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith.config.policy import Limit, NonInferiority, Policy, Superiority
from tunesmith.records import Decision, GateResult, Scores, Verdict
from tunesmith.stats.paired import Difference, paired_difference


@dataclass(frozen=True)
class Evidence:
    """What a gate may look at: the candidate's metrics, and scores on the same holdout items.

    `champion` is None when no version is champion yet; the base then stands in as rival.
    """

    metrics: Mapping[str, float]
    candidate: Scores
    base: Scores
    champion: Scores | None = None


def decide(policy: Policy, evidence: Evidence) -> Verdict:
    """Judge every gate of a policy."""
    rival = "champion" if evidence.champion else "base"
    return Verdict(rival=rival, gates=tuple(judge(gate, evidence) for gate in policy.gates))


def judge(gate: Superiority | NonInferiority | Limit, evidence: Evidence) -> GateResult:
    """Judge one gate."""
    if isinstance(gate, Limit):
        return judge_limit(gate, evidence.metrics)
    against_champion = gate.rule.endswith("champion") and evidence.champion is not None
    rival = evidence.champion if against_champion and evidence.champion else evidence.base
    name = "champion" if against_champion else "base"
    if rival.digest != evidence.candidate.digest:
        detail = f"the {name} was scored on other items, tasks or settings; score it again"
        return GateResult(gate.metric, gate.rule, Decision.INCONCLUSIVE, detail)
    margin = gate.margin if isinstance(gate, NonInferiority) else 0.0
    try:
        difference = compare(gate.metric, evidence.candidate, rival, confidence=gate.confidence)
    except (KeyError, ValueError) as error:
        return GateResult(gate.metric, gate.rule, Decision.INCONCLUSIVE, f"cannot be compared: {error}")
    decision = side(difference, threshold=-margin)
    bound = f"above {-margin:+.3f}" if margin else "above 0"
    detail = (
        f"{difference.mean:+.3f} against the {name}, {gate.confidence:.0%} one-sided bounds "
        f"{difference.low:+.3f} to {difference.high:+.3f} on {difference.items} items; must lie {bound}"
    )
    return GateResult(gate.metric, gate.rule, decision, detail, difference.mean, (difference.low, difference.high))


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


def compare(metric: str, candidate: Scores, rival: Scores, *, confidence: float) -> Difference:
    """The paired difference of one metric `split/task/name`; raises `KeyError` when it has no items."""
    _, task, name = metric.split("/")
    ours = {item: values[name] for item, values in candidate.items[task].items()}
    theirs = {item: values[name] for item, values in rival.items[task].items()}
    return paired_difference(ours, theirs, candidate.groups, confidence=confidence)
