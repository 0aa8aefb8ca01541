"""What a candidate is judged on, and the verdict over it."""

import contextlib
import difflib
import shlex
from dataclasses import replace

from mlflow.exceptions import MlflowException

from tunesmith.config.experiment import Experiment
from tunesmith.config.policy import Limit, Policy
from tunesmith.data.tasks import load_items, load_tasks
from tunesmith.errors import ConfigError, RegistryError
from tunesmith.gate.decide import Evidence, decide, unknown_metrics
from tunesmith.records import Verdict
from tunesmith.registry import aliases, evidence, selection, versions
from tunesmith.registry.ledger import Ledger
from tunesmith.registry.reigns import noted_evidence
from tunesmith.registry.versions import Version
from tunesmith.tracking import runs, store
from tunesmith.tracking.command import changes
from tunesmith.tracking.runs import Run

SCORED = ("data.source", "data.format", "data.split.", "evaluation.tasks", "evaluation.suites", "evaluation.batch_size")
"""The fields of an experiment that decide what a model is scored on, and how."""


def judge(policy: Policy, run_id: str) -> Verdict:
    """The gate's verdict over a run's model, against the champion if there is one, else its base."""
    verdict = decide(policy, gather(policy, run_id))
    shrinkage = selection.shrinkage(run_id)
    notes = (shrinkage.describe() if shrinkage else "", stale_champion(policy, run_id))
    return replace(verdict, notes=tuple(note for note in notes if note))


def gather(policy: Policy, run_id: str) -> Evidence:
    """What the gates look at."""
    record = evidence.load(run_id)
    champion = other_champion(policy, run_id)
    rival = None
    if champion is not None:
        rival = evidence.load_under(champion.run_id, record.candidate.digest).candidate
    return Evidence(evidence.metrics(run_id), record.candidate, record.base, rival)


def other_champion(policy: Policy, run_id: str) -> Version | None:
    """The champion, unless there is none or it is the run's own model."""
    champion = versions.by_alias(policy.model, aliases.CHAMPION)
    return None if champion is None or champion.run_id == run_id else champion


def stale_champion(policy: Policy, run_id: str) -> str:
    """What to do where a gate would compare a run's model with a champion scored on something else; else empty."""
    champion = other_champion(policy, run_id)
    if champion is None or not by_champion(policy):
        return ""
    wanted = evidence.load(run_id).candidate.digest
    if evidence.load_under(champion.run_id, wanted).candidate.digest == wanted:
        return ""
    return (
        f"the champion, version {champion.number}, was scored on other holdout items, tasks or settings than the "
        "candidate; score it on the same, which is a use of the holdout: "
        f"{scoring_command(f'models:/{policy.model}/{champion.number}', runs.attach(run_id))}"
    )


def scoring_command(reference: str, run: Run, *, split: str = "holdout") -> str:
    """The command that scores a model on a split as a run's own model was scored."""
    file = run.tag("experiment_file")
    words = ["tunesmith", "evaluate", reference, "--experiment", file or "EXPERIMENT"]
    with contextlib.suppress(MlflowException, OSError, ConfigError):
        experiment = Experiment.from_tree(run.read_json("experiment.json"), path=store.project_root() / file)
        for name, value in changes(experiment, SCORED).items():
            words += ["--set", f"{name}={value}"]
    return shlex.join([*words, "--split", split])


def require_comparable(policy: Policy, candidate: Version) -> None:
    """Refuse to judge by a champion whose scores are of other items than the candidate's."""
    stale = stale_champion(policy, candidate.run_id)
    if stale:
        raise RegistryError(f"{policy.model}: {stale}")


def require_untouched(policy: Policy, candidate: Version, book: Ledger) -> None:
    """Refuse to judge by a champion whose scores are not those that the ledger has seen."""
    champion = other_champion(policy, candidate.run_id)
    if champion is None or not by_champion(policy):
        return
    record = evidence.load_under(champion.run_id, evidence.load(candidate.run_id).candidate.digest)
    if record.sha256 not in noted_evidence(book.entries, champion.run_id):
        raise RegistryError(
            f"{policy.model}: the holdout scores of the champion, version {champion.number}, were changed since it was "
            f"promoted: their digest {record.sha256[:12]} is not in the ledger; restore them on run {champion.run_id}, "
            "or score it again by `tunesmith evaluate --split holdout`"
        )


def by_champion(policy: Policy) -> bool:
    """Whether a gate compares with the champion."""
    return any(not isinstance(gate, Limit) and gate.rule.endswith("champion") for gate in policy.gates)


def require_known_metrics(policy: Policy, candidate: Version) -> None:
    """Refuse a policy with a metric that the candidate's run never logged."""
    gathered = gather(policy, candidate.run_id)
    unknown = unknown_metrics(policy, gathered)
    if unknown:
        metric = policy.gates[unknown[0]].metric
        near = difflib.get_close_matches(metric, gathered.metrics, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        where = policy.where("gates", unknown[0], "metric")
        raise ConfigError(f"{where}: {metric} was never logged on run {candidate.run_id}{hint}")


def holdout_digest(experiment: Experiment) -> str:
    """Identifies the items that an experiment's tasks have on the holdout."""
    items = load_items(load_tasks(experiment), experiment, "holdout")
    return evidence.items_digest({task: [row["id"] for row in rows] for task, rows in items.items()})
