"""The table of all checks, and the report over them."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from tunesmith.audit import (
    accuracy,
    contamination,
    diversity,
    duplicates,
    formatting,
    preferences,
    privacy,
    relevance,
    size,
)
from tunesmith.audit.material import Material, load_material
from tunesmith.audit.result import Check, Result
from tunesmith.config.audit import AuditLimits
from tunesmith.config.experiment import Experiment
from tunesmith.data.digest import digest_rows
from tunesmith.errors import ModelError, OutcomeError
from tunesmith.records import AuditReport, Finding, Severity

EXAMPLES = 5

Told = Callable[[str], None]
"""Hears the name of each check as it begins."""


def quiet(_: str) -> None:
    """Tell nobody."""


def audit_experiment(experiment: Experiment, *, more: Sequence[Check] = (), told: Told = quiet) -> AuditReport:
    """Audit the rows of an experiment against its own limits, with all checks and those in `more`."""
    material = load_material(experiment)
    return report(material, [*all_checks(material), *token_checks(experiment), *more], told=told)


def require_clean(experiment: Experiment) -> AuditReport:
    """Audit the rows of an experiment by the checks that bar training.

    Raises `OutcomeError` when they are beyond the limits, unless `data.force` is set.
    """
    material = load_material(experiment)
    found = report(material, [check for check in all_checks(material) if check.severity is Severity.BLOCK])
    if found.failed and not experiment.data.force:
        worst = found.failed[0]
        example = f" (first: {worst.examples[0]})" if worst.examples else ""
        raise OutcomeError(
            f"{experiment.path}: the data fails its audit: {worst.check}: {worst.count}, {worst.detail}{example}; "
            "run `tunesmith audit` for all findings, `tunesmith audit --curate` to mend them, "
            "or set data.force to train all the same"
        )
    return found


def all_checks(material: Material) -> list[Check]:
    """Every check that needs no model, in the order in which curation goes through them."""
    return [
        *size.CHECKS,
        *formatting.CHECKS,
        *privacy.CHECKS,
        *preferences.checks(material),
        duplicates.CHECKS[0],
        *contamination.checks(material),
        *duplicates.CHECKS[1:],
        *relevance.CHECKS,
        *accuracy.CHECKS,
        *diversity.CHECKS,
    ]


def token_checks(experiment: Experiment) -> Sequence[Check]:
    """The checks that need the base model's tokeniser; one that only says why, where it cannot be had."""
    from tunesmith.audit import tokens
    from tunesmith.models.loading import load_tokenizer
    from tunesmith.models.references import resolve

    try:
        tokenizer = load_tokenizer(resolve(experiment.model.base, revision=experiment.model.revision))
    except ModelError as error:
        reason = str(error)
        return (Check("tokens", "formatting", lambda _: Result({}, skipped=reason), severity=Severity.WARN),)
    return tokens.checks(tokenizer, experiment.model.max_length)


def report(material: Material, checks: Sequence[Check], *, told: Told = quiet) -> AuditReport:
    """Make the checks. Metrics: `audit/rows`, and for each check with a limit `audit/NAME_rate`."""
    findings, metrics = [], {"audit/rows": float(len(material.rows))}
    series: dict[str, tuple[float, ...]] = {}
    for check in checks:
        told(check.name)
        result = check.find(material)
        findings.append(finding(check, result, material))
        if check.limit is not None and not result.skipped:
            metrics[f"audit/{METRICS.get(check.name, check.name.replace(' ', '_'))}_rate"] = result.share
        metrics |= result.metrics
        series |= result.series
    return AuditReport(digest_rows(material.rows), tuple(by_quality(findings)), metrics, series)


def by_quality(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, those of one quality together, in the order in which the qualities first come."""
    order = list(dict.fromkeys(finding.quality for finding in findings))
    return sorted(findings, key=lambda finding: order.index(finding.quality))


METRICS = {"duplicates": "duplicate", "near duplicates": "near_duplicate"}


def finding(check: Check, result: Result, material: Material) -> Finding:
    """A check's result against its limit."""
    about = (check.name, check.quality, check.severity)
    if result.skipped:
        return Finding(*about, passed=True, count=0, detail=f"not checked: {result.skipped}")
    detail, passed = result.detail, bool(result.passed)
    if check.limit is not None:
        allowed = limit_of(material.limits, check.limit)
        detail, passed = f"{detail}; at most {allowed:.2%} allowed", result.share <= allowed
    count = len(result.rows) if result.count is None else result.count
    examples = tuple(material.id(n) for n in sorted(result.rows)[:EXAMPLES])
    return Finding(*about, passed=passed, count=count, detail=detail, examples=examples)


def limit_of(limits: AuditLimits, name: str) -> float:
    """The value of a dotted field of `data.audit`."""
    value: Any = reduce(getattr, name.split("."), limits)
    return float(value)
