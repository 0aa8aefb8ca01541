"""Results as text for a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.config import Experiment, Policy
from tunesmith.progress import describe
from tunesmith.records import AuditReport, Scores, TrainedRun, Verdict

if TYPE_CHECKING:
    from tunesmith.audit.curate import Curated
    from tunesmith.doctor import Diagnosis
    from tunesmith.pipeline import SweepOutcome
    from tunesmith.promotion import History, Move
    from tunesmith.registry.ledger import Entry
    from tunesmith.registry.lineage import Lineage
    from tunesmith.replay import Replay
    from tunesmith.train.plan import Plan

MARKS = {"ok": "✓", "warning": "!", "error": "✗", "pass": "✓", "fail": "✗", "inconclusive": "?"}
MARKS |= {"warn": "!", "note": "·"}
ALONE_NOTE = "alone: by that metric's own test; the verdict allows for all metrics being looked at (Holm)"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[n]) for row in (header, *rows)) for n in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def comparison_text(base: Scores, tuned: Scores) -> str:
    """Base and tuned model side by side, with what can be said of the difference, item by item.

    Of a suite the rates of its classes (`METRIC.CLASS`) are left out; they are logged, and in the model card.

    The interval stands where the metric is a mean over items; `tunesmith compare` has the others too.
    """
    from tunesmith.comparison.analysis import analyse
    from tunesmith.comparison.page import interval, verdict

    split = next(iter(tuned.metrics), "").partition("/")[0]
    results = {f"{split}/{r.metric}": r for r in analyse(("base", "tuned"), (base, tuned), split=split).results}
    rows = []
    for name, value in tuned.metrics.items():
        found, before = results.get(name), base.metrics.get(name)
        if before is not None and (found is not None or "." not in name):
            bounds = interval(found) if found is not None and found.whole is None else ""
            cells = (name, f"{before:.3f}", f"{value:.3f}", f"{value - before:+.3f}", bounds)
            rows.append((*cells, verdict(found) if found is not None else ""))
    shown = table(("metric", "base", "tuned", "change", "95% interval", "verdict"), rows)
    return f"{shown}\n{ALONE_NOTE}" if any("(alone:" in row[-1] for row in rows) else shown


def sweep_text(outcome: "SweepOutcome", experiment: Experiment, policy: Policy) -> str:
    """The last lines of a sweep: winner and base, the verdict, and what to type next."""
    found = f"winner: trial {outcome.winner.trial}  ({describe(outcome.winner.params)})"
    compared = comparison_text(outcome.base, outcome.scores)
    if outcome.verdict is None:
        use = f"a reward model is not registered; train by it with method.reward_model: runs:/{outcome.run_id}"
        return "\n".join(["", found, "", compared, "", use])
    name = policy.model
    evaluate = f"tunesmith evaluate models:/{name}@candidate --experiment {experiment.path} --split bench"
    steps = {
        f"mlflow run . -e promote --env-manager local -P policy={policy.path}": "make it champion",
        "make ui": "compare the runs",
        evaluate: "score it on fresh rows",
    }
    width = max(map(len, steps))
    return "\n".join(
        [
            "",
            found,
            "",
            compared,
            "",
            f"registered as {name} version {outcome.version}, alias candidate",
            f"gate verdict, against the {outcome.verdict.rival}:",
            verdict_text(outcome.verdict),
            "",
            "next:",
            *(f"  {command:<{width}}  # {purpose}" for command, purpose in steps.items()),
        ]
    )


def sweep_value(outcome: "SweepOutcome") -> dict[str, Any]:
    """A sweep's outcome for machines."""
    return {
        "sweep_run": outcome.parent,
        "winner_run": outcome.run_id,
        "trial": outcome.winner.trial,
        "params": outcome.winner.params,
        "version": outcome.version,
        "verdict": outcome.verdict and outcome.verdict.decision,
        "base": dict(outcome.base.metrics),
        "winner": dict(outcome.scores.metrics),
    }


def verdict_text(verdict: Verdict) -> str:
    """Every gate with its decision and numbers, then the notes."""
    gates = [
        f"  {MARKS[gate.decision]} {gate.decision}: {gate.metric} {gate.rule.replace('_', ' ')}: {gate.detail}"
        for gate in verdict.gates
    ]
    return "\n".join([*gates, *(f"  {note}" for note in verdict.notes)])


def promotion_text(policy: Policy, move: "Move", verdict: Verdict) -> str:
    """A promotion that went through."""
    was = f" (was {move.was})" if move.was else ""
    lines = [verdict_text(verdict), f"{policy.model}: version {move.version} is champion{was}"]
    return "\n".join([*lines, *move.notes, f"ledger head {move.head}"])


def rollback_text(policy: Policy, move: "Move") -> str:
    """A rollback that went through."""
    line = f"{policy.model}: champion is version {move.version} again (was {move.was or 'none'})"
    return "\n".join([*move.notes, line, f"ledger head {move.head}"])


def history_text(history: "History", *, verify: bool) -> str:
    """A ledger, one line an entry, whether it holds, and how the champions came to be."""
    lines = [f"{entry.seq:>4}  {entry.at[:19]}Z  {entry.by}  {entry_text(entry)}" for entry in history.entries]
    if verify:
        lines += [f"{MARKS['error']} {fault}" for fault in history.faults]
        lines += [] if history.faults else [f"{MARKS['ok']} {len(lines)} entries, unbroken; the alias agrees"]
    for champion in history.champions:
        lines += lineage_lines(champion, champion is history.champions[-1])
    return "\n".join([*lines, f"ledger head {history.head}"])


def lineage_lines(lineage: "Lineage", reigns: bool) -> list[str]:
    """How a version came to be: its base, then its trainings in order, digests cut to 12 digits."""
    base = f", on {lineage.base} {lineage.base_sha256[:12]}" if lineage.base else ""
    lines = [f"version {lineage.version}, {'champion' if reigns else 'an earlier champion'}{base}"]
    for training in lineage.trainings:
        parts = {
            f"run {training.run}": training.run,
            f"of sweep {training.sweep}": training.sweep,
            f"data {training.data_sha256[:12]}": training.data_sha256,
            f"from adapter {training.parent_sha256[:12]}": training.parent_sha256,
            f"to adapter {training.adapter_sha256[:12]}": training.adapter_sha256,
        }
        lines.append(f"      {training.method}: {', '.join(text for text, there in parts.items() if there)}")
    return [*lines, *([f"      {lineage.lost}"] if lineage.lost else [])]


def entry_text(entry: "Entry") -> str:
    """What one entry of a ledger says, in words."""
    body = entry.body
    if entry.action == "intent":
        more = [str(body[key]) for key in ("holdout_use", "forced", "drift") if key in body]
        extra = f" [{'; '.join(more)}]" if more else ""
        return f"{body['what']} version {body['version']} (was {body['was'] or 'none'}): {body['reason']}{extra}"
    if entry.action in {"done", "undone"}:
        return f"{entry.action} {body['of']}{f' ({note})' if (note := body.get('note')) else ''}"
    if entry.action == "holdout":
        return f"holdout used on run {body['run']}"
    if entry.action == "scores":
        return f"scored again: run {body['run']}, evidence {body['evidence_sha256'][:12]}"
    if entry.action == "hook":
        return f"hook of {body['of']}, {body['command']}: {body['outcome']}"
    return f"{entry.action} {body.get('source', '')}"


def replay_text(replay: "Replay") -> str:
    """What a replay found, and what may explain a difference."""
    lines = [f"run {replay.run_id}: {replay.outcome}"]
    if replay.step is not None and replay.losses is not None:
        recorded, now = replay.losses
        lines.append(f"train/loss differs first at step {replay.step}: {recorded:.9g} then, {now:.9g} now")
    if replay.weights_step is not None:
        lines.append(f"the weights differ first after step {replay.weights_step} (of every tenth and the last)")
    lines.append(f"adapter {replay.recorded_sha256[:12]} then, {replay.adapter_sha256[:12]} now")
    return "\n".join([*lines, *(f"! {line}" for line in replay.surroundings)])


def training_text(run_id: str, trained: TrainedRun, scores: Scores) -> str:
    """The outcome of a single training run."""
    speed, memory = trained.metrics["train/tokens_per_second"], trained.metrics["train/peak_memory_mb"]
    overfit = (
        "tune loss rose while train loss fell: fewer epochs or more rows would help" if trained.overfit else "no sign"
    )
    share = trained.metrics["train/trainable_share"]
    lines = [
        f"run {run_id}",
        f"train/loss {trained.metrics['train/loss']:.3f}, tune/loss {trained.metrics['tune/loss']:.3f}",
        f"{speed:.0f} tokens/s, peak memory {memory:.0f} MiB, {share:.2%} of weights trained",
        f"overfitting: {overfit}",
        *([f"ended early: {trained.stopped}"] if trained.stopped else []),
        *(f"{name} {value:.3f}" for name, value in scores.metrics.items()),
    ]
    return "\n".join(lines)


def audit_text(report: AuditReport) -> str:
    """Every finding of an audit, by quality, with the rows it names."""
    lines, quality = [], ""
    for finding in report.findings:
        if finding.quality != quality:
            quality = finding.quality
            lines.append(f"{quality}:")
        mark = MARKS["ok" if finding.passed else finding.verdict]
        rows = f" ({', '.join(finding.examples)})" if finding.examples else ""
        lines.append(f"  {mark} {finding.check}: {finding.count}, {finding.detail}{rows}")
    warnings = sum(finding.verdict == "warn" for finding in report.findings)
    verdict = "passes" if report.passed else f"fails: {', '.join(finding.check for finding in report.failed)}"
    return "\n".join([*lines, "", f"the data {verdict}; {warnings} warnings"])


def curation_text(curated: "Curated", out: str, ledger: str) -> str:
    """What curation kept, what it did with the rest, and where it wrote both."""
    counts = sorted(curated.counts().items(), key=lambda item: -item[1])
    rows = [(name, str(count)) for name, count in counts]
    return "\n".join(
        [
            table(("by the check that decided", "rows"), rows) if rows else "nothing to mend",
            "",
            f"kept {len(curated.kept)} of {len(curated.source)} rows in {curated.passes} passes: {out}",
            f"what was done to the others: {ledger}",
        ]
    )


def plan_text(experiment: Experiment, plan: "Plan") -> str:
    """A plan, with the loss mask of one row."""
    import yaml

    rows = ", ".join(f"{name} {count}" for name, count in plan.rows.items())
    weights = f"{plan.parameters / 1e6:.0f}M weights, {plan.trainable / 1e6:.2f}M trained"
    tokens = f"{plan.tokens} tokens, {plan.supervised_share:.1%} of them in the loss, {plan.truncated} rows cut"
    return "\n".join(
        [
            yaml.safe_dump(dict(experiment.tree()), sort_keys=False).rstrip(),
            "",
            f"model     {plan.placement}; {weights} ({plan.trainable / plan.parameters:.2%})",
            f"rows      {rows}",
            f"training  {plan.training_rows} rows, {tokens}",
            f"steps     {plan.steps} ({plan.steps_per_epoch} an epoch)",
            f"memory    about {plan.memory_mb:.0f} MiB",
            "",
            "the loss counts what stands between ⟦ and ⟧:",
            plan.preview,
        ]
    )


def doctor_text(findings: Sequence["Diagnosis"]) -> str:
    """Every finding with its remedy."""
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.severity]} {finding.check}: {finding.state}")
        if finding.remedy:
            lines.append(f"    → {finding.remedy}")
    return "\n".join(lines)
