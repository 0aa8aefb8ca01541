"""Carry a version, with the evidence it was judged on, to another registry."""

import pathlib
import tempfile
from dataclasses import dataclass, field
from typing import Any

from mlflow.exceptions import MlflowException

from tunesmith import manifest
from tunesmith.errors import RegistryError
from tunesmith.registry import aliases, evidence, versions
from tunesmith.registry.reigns import COPY, HOLDOUT
from tunesmith.registry.versions import Version
from tunesmith.tracking import runs, store

ARTIFACTS = ("adapter", "evaluation", "experiment.json")
NOT_COPIED = ("host", "pid", "process_started", "status")
INHERITED = ("base_sha256", "data_sha256", "experiment_file", "seed", "threads", "git_commit", "lock_sha256")


@dataclass
class Evidence:
    """What is known of a version's run, held in memory and in a folder between the two registries."""

    name: str
    kind: str
    tags: dict[str, Any]
    params: dict[str, str]
    metrics: dict[str, float]
    folder: pathlib.Path
    package: pathlib.Path
    version_tags: dict[str, str] = field(default_factory=dict)


def copy(name: str, number: str, target: str) -> str:
    """Copy a version to the registry at the URI `target` as candidate there; returns its number there.

    It is verified here before and there after. Raises `RegistryError` when the copy is not the same package.
    """
    source = store.tracking_uri()
    if target.rstrip("/") == source.rstrip("/"):
        raise RegistryError(f"{target}: is the registry that {name} is in already")
    version = versions.get(name, number)
    package = versions.verify(version)
    with tempfile.TemporaryDirectory(dir=store.state_folder()) as folder:
        gathered = gather(version, package, pathlib.Path(folder))
        with store.using(target):
            copied = recreate(gathered, version, f"{source} models:/{name}/{number}")
    if copied.tag("package_sha256") != version.tag("package_sha256"):
        raise RegistryError(f"{target}: version {copied.number} is not the package that was sent")
    return copied.number


def gather(version: Version, package: pathlib.Path, folder: pathlib.Path) -> Evidence:
    """Read a version's run."""
    run = runs.attach(version.run_id)
    data = store.client().get_run(run.id).data
    own = {key.removeprefix(runs.TAG): value for key, value in data.tags.items() if key.startswith(runs.TAG)}
    inherited = {key: run.tag(key) for key in INHERITED}
    for artifact in ARTIFACTS:
        try:
            run.download(artifact, folder)
        except (MlflowException, OSError):
            raise RegistryError(f"run {run.id}: has no {artifact} to copy; it was deleted") from None
    return Evidence(
        name=data.tags.get("mlflow.runName", version.name),
        kind=own.pop("kind"),
        tags={key: value for key, value in {**inherited, **own}.items() if key not in NOT_COPIED and value},
        params=dict(data.params),
        metrics=dict(data.metrics),
        folder=folder,
        package=package,
        version_tags={key.removeprefix(runs.TAG): value for key, value in version.tags.items()},
    )


def recreate(gathered: Evidence, version: Version, source: str) -> Version:
    """Write a version and its run into the registry that is current now, and verify it there."""
    run = runs.create(version.name, gathered.name, kind=gathered.kind, tags={**gathered.tags, "copied_from": source})
    run.params(gathered.params)
    run.metrics(gathered.metrics)
    for artifact in ARTIFACTS:
        path = gathered.folder / artifact
        run.artifact(path, artifact if path.is_dir() else None)
    run.finish("FINISHED")
    number = versions.register(gathered.package, run, version.name, tags=gathered.version_tags)
    copied = versions.get(version.name, number)
    evidence.require_fresh(evidence.load(run.id), versions.verify(copied))
    versions.set_alias(version.name, aliases.CANDIDATE, number)
    aliases.note(version.name, HOLDOUT, {"items": evidence.load(run.id).items, "run": run.id})
    digest = manifest.digest(manifest.verify(gathered.package))
    aliases.note(version.name, COPY, {"source": source, "version": number, "package_sha256": digest})
    return copied
