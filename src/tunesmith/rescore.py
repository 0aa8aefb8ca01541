"""Score a registered version on the holdout as it is now, so that newer candidates can be judged against it."""

from tunesmith import judgement, manifest, pipeline
from tunesmith.config.experiment import Experiment
from tunesmith.progress import Progress
from tunesmith.records import Scores
from tunesmith.registry import aliases, evidence, versions
from tunesmith.registry.reigns import HOLDOUT
from tunesmith.registry.verify import WEIGHTS, read_json
from tunesmith.tracking import runs


def rescore(reference: str, experiment: Experiment, progress: Progress) -> tuple[Scores, Scores]:
    """Score a version and its base on an experiment's holdout; returns the base's and the version's scores.

    `reference` is `models:/NAME@ALIAS` or `models:/NAME/NUMBER`. The use of the holdout is noted in the model's
    ledger first; the scores are kept beside those that the version was registered with. Raises `RegistryError`
    when the version does not verify, `ModelError` when the experiment has another base.
    """
    version = versions.find(reference)
    package = versions.verify(version)
    use = {"items": judgement.holdout_digest(experiment), "run": version.run_id}
    aliases.note(version.name, HOLDOUT, use)
    number = f"models:/{version.name}/{version.number}"
    base, scores = pipeline.evaluate(number, experiment, progress, split="holdout")
    scored = evidence.Record(
        candidate=scores,
        base=base,
        adapter_sha256=manifest.sha256_file(package / WEIGHTS),
        base_sha256=read_json(package, "base.json")["sha256"],
    )
    evidence.save_also(runs.attach(version.run_id), scored)
    progress.note(f"kept as evidence of {version.name} version {version.number}, and noted as a use of the holdout")
    return base, scores
