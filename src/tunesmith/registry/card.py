"""A version's model card, as Markdown and HTML, from what was recorded and what the policy states."""

import json
from collections.abc import Mapping
from typing import Any

import jinja2
from mlflow.exceptions import MlflowException

from tunesmith.config.policy import Policy
from tunesmith.errors import RegistryError
from tunesmith.records import Scores, Verdict
from tunesmith.registry import evidence, ledger, versions
from tunesmith.registry.lineage import chain, outermost
from tunesmith.registry.reigns import follow
from tunesmith.registry.verify import read_json
from tunesmith.registry.versions import Version
from tunesmith.stats.paired import paired_difference
from tunesmith.tracking import runs, store

FOLDER = "card"
TEMPLATES = {"card.md": "card.md.j2", "card.html": "card.html.j2"}
WATTS_A_CORE = 10.0
CONFIDENCE = 0.975  # on each side


def render(policy: Policy, version: Version, verdict: Verdict) -> dict[str, str]:
    """The card's texts by file name; the templates lie beside the policy, or in the project's `registry/`."""
    facts = gather(policy, version, verdict)
    loader = jinja2.FileSystemLoader([policy.path.parent, store.project_root() / "registry"])
    environment = jinja2.Environment(
        loader=loader,
        autoescape=jinja2.select_autoescape(["html", "html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        return {name: environment.get_template(template).render(facts) for name, template in TEMPLATES.items()}
    except jinja2.TemplateNotFound as error:
        raise RegistryError(f"{policy.path.parent / str(error)}: the model card's template is missing") from None
    except jinja2.TemplateError as error:
        raise RegistryError(f"{policy.path.parent}: the model card's template fails: {error}") from None


def gather(policy: Policy, version: Version, verdict: Verdict) -> dict[str, Any]:
    """Everything that a template may show."""
    record = evidence.load(version.run_id)
    package = versions.fetch(version) / versions.PACKAGE
    experiment = read_json(package, "experiment.json")
    metrics = evidence.metrics(version.run_id)
    stages = chain(version.run_id)
    return {
        "model": policy.model,
        "version": version.number,
        "stated": policy.card.model_dump(),
        "verdict": verdict,
        "stages": stages,
        "data": {"source": experiment["data"]["source"], **read_json(package, "data.json")},
        "audit": {name: value for name, value in metrics.items() if name.startswith("audit/")},
        "audit_verdict": audit_verdict(version.run_id, metrics),
        "scores": scores(record, former(version, record.candidate.digest)),
        "adversarial": {name: value for name, value in metrics.items() if "adversarial" in name},
        "forgetting": {name: value for name, value in metrics.items() if "forgetting" in name},
        "settings": flat({key: experiment[key] for key in ("model", "adapter", "method")}),
        "space": search_space(stages),
        "cost": cost(policy, stages),
        "base": read_json(package, "base.json"),
        "package": {"sha256": version.tag("package_sha256"), "bytes": metrics.get("package/bytes")},
    }


def audit_verdict(run_id: str, metrics: Mapping[str, float]) -> str:
    """Whether the data had passed its audit when the run was trained."""
    forced = runs.attach(run_id).tag("data_forced")
    if forced:
        return f"refused by {forced}; trained all the same, as data.force asks"
    return "passed" if any(name.startswith("audit/") for name in metrics) else "not recorded"


def former(version: Version, digest: str) -> Scores | None:
    """The scores of the champion before a version, on the same items if it has such, while its records are there."""
    others = [n for n in follow(ledger.read(version.name).entries).champions if n != version.number]
    try:
        return evidence.load_under(versions.get(version.name, others[-1]).run_id, digest).candidate if others else None
    except RegistryError:
        return None


def scores(record: evidence.Record, champion: Scores | None) -> list[dict[str, str]]:
    """Every per-item metric of the holdout with its 95% interval, beside base and former champion."""
    rows = []
    for task in record.candidate.items:
        for name in record.candidate.names(task):
            row = {"metric": f"holdout/{task}/{name}"}
            for who, held in (("version", record.candidate), ("base", record.base), ("champion", champion)):
                row[who] = interval(held, task, name) if held else "none"
            rows.append(row)
    return rows


def interval(held: Scores, task: str, name: str) -> str:
    """A mean with its 95% interval, resampled by group."""
    values = held.values(task, name)
    if not values:
        return "not scored"
    spread = paired_difference(values, dict.fromkeys(values, 0.0), held.groups, confidence=CONFIDENCE)
    return f"{spread.mean:.3f} ({spread.low:.3f} to {spread.high:.3f})"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings under dotted names."""
    settings: dict[str, str] = {}
    for key, value in tree.items():
        inner = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": json.dumps(value)}
        settings |= inner
    return settings


def search_space(stages: list[dict[str, Any]]) -> dict[str, str]:
    """The ranges that a sweep searched, if there was one."""
    try:
        tree = runs.attach(outermost(stages)[-1]["id"]).read_json("space.json")
    except (MlflowException, OSError):
        return {}
    return {name: json.dumps(spread) for name, spread in tree.get("params", {}).items()}


def cost(policy: Policy, stages: list[dict[str, Any]]) -> dict[str, Any]:
    """Time of all trainings, and the energy they took if the last one's machine drew what was stated or assumed."""
    first = outermost(stages)[-1]
    cores = int(first["threads"]) if first["threads"].isdigit() else 1
    watts = policy.card.watts or WATTS_A_CORE * cores
    hours = sum(stage["seconds"] for stage in outermost(stages)) / 3600
    basis = "as the policy states" if policy.card.watts else f"assumed: {WATTS_A_CORE:g} W for each of {cores} threads"
    return {"hours": hours, "kwh": watts * hours / 1000, "watts": watts, "basis": basis, "machine": first["machine"]}
