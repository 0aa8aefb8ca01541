"""Checks over a data set's rows."""

from collections import defaultdict
from collections.abc import Sequence

from tunesmith.config.experiment import AuditLimits, Experiment
from tunesmith.data.dataset import load_dataset
from tunesmith.data.digest import canonical
from tunesmith.data.formats import user_text
from tunesmith.errors import OutcomeError
from tunesmith.records import AuditReport, Dataset, Finding, Row

EXAMPLES = 5


def audit_experiment(experiment: Experiment) -> AuditReport:
    """Audit the rows of an experiment against its own limits."""
    return audit(load_dataset(experiment), experiment.data.audit)


def require_clean(experiment: Experiment) -> AuditReport:
    """Audit the rows of an experiment; raises `OutcomeError` when they are beyond its limits."""
    report = audit_experiment(experiment)
    failed = [finding for finding in report.findings if not finding.passed]
    if failed:
        worst = failed[0]
        example = f" (first: {worst.examples[0]})" if worst.examples else ""
        raise OutcomeError(
            f"{experiment.path}: the data fails its audit: {worst.check}: {worst.count}, {worst.detail}{example}; "
            "run `tunesmith audit` for all findings"
        )
    return report


def audit(dataset: Dataset, limits: AuditLimits) -> AuditReport:
    """Check size, exact duplicates, and customer turns of held-out splits that also occur in train.

    Metrics: `audit/rows`, `audit/duplicate_rate` (share of all rows that repeat another), and
    `audit/SPLIT_overlap` (share of a split's rows whose user turns occur in train).
    """
    rows = [row for split in dataset.splits for row in split.rows]
    repeated = duplicates(rows)
    overlaps = {split.name: overlap(split.rows, dataset.train.rows) for split in dataset.splits[1:]}
    metrics = {"audit/rows": float(len(rows)), "audit/duplicate_rate": len(repeated) / len(rows)}
    metrics |= {
        f"audit/{split.name}_overlap": len(overlaps[split.name]) / max(1, len(split.rows))
        for split in dataset.splits[1:]
    }
    findings = [
        Finding("size", len(rows) >= limits.min_rows, len(rows), f"rows; at least {limits.min_rows} wanted"),
        _limited("duplicates", repeated, metrics["audit/duplicate_rate"], limits.max_duplicate_rate, of="all rows"),
    ]
    for name, found in overlaps.items():
        share = metrics[f"audit/{name}_overlap"]
        findings.append(_limited(f"{name} in train", found, share, limits.max_holdout_overlap, of=name))
    return AuditReport(dataset.digest, tuple(findings), metrics)


def duplicates(rows: Sequence[Row]) -> list[str]:
    """Ids of rows whose messages repeat those of an earlier row exactly."""
    seen: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        seen[canonical(row["messages"])].append(row["id"])
    return sorted(repeat for ids in seen.values() for repeat in ids[1:])


def overlap(rows: Sequence[Row], train: Sequence[Row]) -> list[str]:
    """Ids of rows whose user turns, case and spacing aside, also occur in train."""
    known = {user_text(row) for row in train}
    return sorted(row["id"] for row in rows if user_text(row) in known)


def _limited(check: str, ids: Sequence[str], share: float, limit: float, *, of: str) -> Finding:
    detail = f"{share:.2%} of {of}; at most {limit:.2%} allowed"
    return Finding(check, share <= limit, len(ids), detail, tuple(ids[:EXAMPLES]))
