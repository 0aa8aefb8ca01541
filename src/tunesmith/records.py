"""The frozen records that cross from one stage to the next."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Split:
    """Rows that are used together, and the digest that identifies them."""

    name: str
    rows: tuple[Row, ...]
    digest: str


@dataclass(frozen=True)
class Dataset:
    """All rows of a source, dealt out to the splits."""

    source: str
    digest: str
    train: Split
    tune: Split
    holdout: Split
    bench: Split

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits in their fixed order."""
        return self.train, self.tune, self.holdout, self.bench


class Severity(enum.StrEnum):
    """What a finding beyond its limit means: the data is refused, it is worth a look, or it is worth knowing."""

    BLOCK = "block"
    WARN = "warn"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """One check of the audit: how many rows it caught, and whether that is within the limits."""

    check: str
    quality: str
    severity: Severity
    passed: bool
    count: int
    detail: str
    examples: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """`pass`; or beyond the limit, `fail`, `warn` or `note` by severity."""
        return "pass" if self.passed else {Severity.BLOCK: "fail"}.get(self.severity, str(self.severity))


@dataclass(frozen=True)
class AuditReport:
    """What the audit found in a data set.

    `series` holds the numbers behind the plots, by title.
    """

    data_digest: str
    findings: tuple[Finding, ...]
    metrics: Mapping[str, float]
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The findings because of which the data is refused."""
        return tuple(finding for finding in self.findings if finding.verdict == "fail")

    @property
    def passed(self) -> bool:
        """Whether every check that blocks is within its limits."""
        return not self.failed


@dataclass(frozen=True)
class Scores:
    """What a model scored: means by metric name, and each item's values for paired comparison.

    `items` maps a task to its rows' ids, each with the value of every per-item metric.
    """

    metrics: Mapping[str, float]
    items: Mapping[str, Mapping[str, Mapping[str, float]]]
    groups: Mapping[str, str]
    """The group of each item, by row id."""
    digest: str
    """Identifies tasks, items, harness and settings; scores compare only under equal digests."""
    samples: tuple[Mapping[str, Any], ...] = ()
    lower_is_better: tuple[str, ...] | None = None
    """The metrics, as `task/metric`, of which less is better; None in scores written before this was recorded."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the digest identifies, so that a reader can be told what differs; empty in early scores."""

    def names(self, task: str) -> list[str]:
        """The metrics that items of a task have; not every item need have each."""
        return list(dict.fromkeys(name for values in self.items.get(task, {}).values() for name in values))

    def values(self, task: str, name: str) -> dict[str, float]:
        """The value of a metric for each item of a task that has it."""
        return {item: values[name] for item, values in self.items.get(task, {}).items() if name in values}

    def sign(self, metric: str) -> int:
        """1 where more of a metric `split/task/name` is better, −1 where less is."""
        return -1 if metric.partition("/")[2] in (self.lower_is_better or ()) else 1


@dataclass(frozen=True)
class Beaten:
    """A model whose scoring stopped since it was beyond doubt worse than another.

    `seen` of its `items` were scored; on them it was worse by `difference`, with the one-sided `p_value`.
    """

    seen: int
    items: int
    difference: float
    p_value: float


@dataclass(frozen=True)
class TrainedRun:
    """A finished training: how it went, and the folder that its adapter lies in.

    `curves` maps a metric to its (optimiser step, value) points.
    """

    adapter: str
    adapter_sha256: str
    metrics: Mapping[str, float]
    curves: Mapping[str, tuple[tuple[int, float], ...]]
    overfit: bool
    engine: str = "trl"
    """`slots`, or `trl` with the reason why the slots engine did not do it, if it was asked to."""
    stopped: str = ""
    """Why the training ended before its last step; empty when it did not."""
    fingerprints: Mapping[int, str] = field(default_factory=dict)
    """SHA-256 of the weights after some of the steps, from the slots engine."""


class Decision(enum.StrEnum):
    """The outcome of a gate."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class GateResult:
    """One gate's decision and the numbers behind it."""

    metric: str
    rule: str
    decision: Decision
    detail: str
    difference: float | None = None
    interval: tuple[float, float] | None = None
    wanting: str = ""
    """What would turn an inconclusive gate into a pass."""


@dataclass(frozen=True)
class Verdict:
    """All gates of a policy over one candidate."""

    rival: str
    gates: tuple[GateResult, ...]
    notes: tuple[str, ...] = ()
    """What else a reader should know, such as how much the winner shrank when it was confirmed."""

    @property
    def decision(self) -> Decision:
        """Fail if any gate fails, else inconclusive if any is, else pass."""
        decisions = [gate.decision for gate in self.gates]
        for worst in (Decision.FAIL, Decision.INCONCLUSIVE):
            if worst in decisions:
                return worst
        return Decision.PASS
