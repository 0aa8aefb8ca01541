"""Score a registered version on the holdout as it is now, so that newer candidates can be judged against it."""

from tunesmith import judgement, manifest, pipeline
from tunesmith.config.experiment import Experiment
from tunesmith.config.overrides import apply
from tunesmith.errors import RegistryError
from tunesmith.progress import Progress
from tunesmith.records import Scores
from tunesmith.registry import aliases, evidence, versions
from tunesmith.registry.reigns import HOLDOUT, SCORES
from tunesmith.registry.verify import WEIGHTS, read_json
from tunesmith.registry.versions import Version
from tunesmith.tracking import runs


def rescore(reference: str, experiment: Experiment, progress: Progress) -> tuple[Scores, Scores]:
    """Score a version and its base on an experiment's holdout; returns the base's and the version's scores.

    `reference` is `models:/NAME@ALIAS` or `models:/NAME/NUMBER`. Rows and tasks are the experiment's, the base is
    the version's own. The use of the holdout is noted in the model's ledger first; the scores are kept beside those
    that the version was registered with. Raises `RegistryError` when the version does not verify.
    """
    version = versions.find(reference)
    package = versions.verify(version)
    base_of = read_json(package, "base.json")
    experiment = apply(experiment, {"model.base": base_of["reference"], "model.revision": base_of["revision"]})
    aliases.note(version.name, HOLDOUT, {"items": judgement.holdout_digest(experiment), "run": version.run_id})
    number = f"models:/{version.name}/{version.number}"
    base, scores = pipeline.evaluate(number, experiment, progress, split="holdout")
    sha256 = manifest.sha256_file(package / WEIGHTS)
    record = evidence.Record(scores, base, sha256, base_of["sha256"])
    evidence.save_also(runs.attach(version.run_id), record)
    aliases.note(version.name, SCORES, {"run": version.run_id, "evidence_sha256": record.sha256})
    progress.note(f"kept as evidence of {version.name} version {version.number}, and noted as a use of the holdout")
    if unlike_candidate(version, scores):
        progress.note(
            "the candidate was scored on other rows, tasks, settings or chat template; the two do not compare"
        )
    return base, scores


def unlike_candidate(version: Version, scores: Scores) -> bool:
    """Whether there is a candidate that these scores still cannot be compared with."""
    candidate = versions.by_alias(version.name, aliases.CANDIDATE)
    try:
        return candidate is not None and evidence.load(candidate.run_id).candidate.digest != scores.digest
    except RegistryError:
        return False
