"""What MLflow's registry page shows of a version, so that it can be read on its own."""

from tunesmith.config.policy import Policy
from tunesmith.records import Scores, Verdict
from tunesmith.registry import card, evidence
from tunesmith.registry.lineage import run_link
from tunesmith.registry.versions import Version
from tunesmith.tracking import runs, store
from tunesmith.tracking.runs import TAG


def describe(version: Version, verdict: Verdict) -> None:
    """Write verdict, scores beside the base, and links onto a version."""
    client = store.client()
    record = evidence.load(version.run_id)
    text = "\n\n".join(
        [
            f"**Verdict: {verdict.decision}**, against the {verdict.rival}",
            gates_text(verdict),
            scores_table(record.candidate, record.base),
            links(version.run_id),
        ]
    )
    client.set_model_version_tag(version.name, version.number, f"{TAG}verdict", str(verdict.decision))
    client.update_model_version(version.name, version.number, description=text)


def publish(policy: Policy, version: Version, verdict: Verdict) -> None:
    """Describe a version and its registered model, and log the version's model card."""
    describe(version, verdict)
    run = runs.attach(version.run_id)
    for name, text in card.render(policy, version, verdict).items():
        run.text(text, f"{card.FOLDER}/{name}")
    text = f"{policy.card.intended_use}\n\nThe gates of `{policy.path.name}` decide who is `champion`."
    store.client().update_registered_model(policy.model, description=text)


def gates_text(verdict: Verdict) -> str:
    """Each gate's decision and numbers, and the verdict's notes, as a Markdown list."""
    gates = [
        f"- {gate.decision}: `{gate.metric}` {gate.rule.replace('_', ' ')}: {gate.detail}" for gate in verdict.gates
    ]
    return "\n".join([*gates, *(f"- {note}" for note in verdict.notes)])


def scores_table(candidate: Scores, base: Scores) -> str:
    """Holdout scores beside the base's, as a Markdown table."""
    rows = [
        f"| {name} | {value:.3f} | {base.metrics[name]:.3f} | {value - base.metrics[name]:+.3f} |"
        for name, value in candidate.metrics.items()
        if name in base.metrics
    ]
    return "\n".join(["| metric | this version | its base | change |", "|---|---|---|---|", *rows])


def links(run_id: str) -> str:
    """Links to the run, its parent and its model card, relative to the MLflow UI."""
    tags = store.client().get_run(run_id).data.tags
    found = [f"[training run]({run_link(run_id)})"]
    if "mlflow.parentRunId" in tags:
        found.append(f"[sweep]({run_link(tags['mlflow.parentRunId'])})")
    found.append(f"[model card]({run_link(run_id)}/artifacts/{card.FOLDER}/card.html)")
    return " · ".join(found)
