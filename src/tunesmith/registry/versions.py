"""Versions in the registry: a package logged as an MLflow model from code, with its evidence linked."""

import functools
import pathlib
import re
import shutil
import tempfile
import urllib.parse
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types.llm import CHAT_MODEL_INPUT_SCHEMA, CHAT_MODEL_OUTPUT_SCHEMA

import tunesmith
from tunesmith import manifest
from tunesmith.errors import RegistryError
from tunesmith.registry import ledger
from tunesmith.registry.verify import check_registered, verify_package
from tunesmith.tracking import store
from tunesmith.tracking.runs import TAG, Run, attach

PACKAGE = "artifacts/package"
FILES = "package/files.json"
ADDED_BY_MLFLOW = "registered_model_meta"
LOGGED = re.compile(r"models:/(?P<id>m-\w+)")
REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<number>\d+))")


@dataclass(frozen=True)
class Version:
    """A version in the registry: where its files lie, and what was recorded when it was registered."""

    name: str
    number: str
    run_id: str
    source: str
    tags: Mapping[str, str]

    def tag(self, key: str) -> str:
        """A tag under `tunesmith.`; empty if it is not set."""
        return self.tags.get(f"{TAG}{key}", "")


def register(package: pathlib.Path, run: Run, name: str, *, tags: Mapping[str, Any]) -> str:
    """Log a package as a model of `run`, register it as `name`, and return the new version's number."""
    files = verify_package(package)
    digest = manifest.digest(files)
    info = _log_model(package, run, files)
    logged = model_files(_folder(info.model_uri))
    run.json(logged, FILES)
    ensure(name)
    client = store.client()
    mine = {"package_sha256": digest, "files_sha256": manifest.digest(logged), "run_id": run.id}
    own = {f"{TAG}{key}": str(value) for key, value in {**tags, **mine}.items()}
    created = client.create_model_version(name, source=info.model_uri, run_id=run.id, model_id=info.model_id, tags=own)
    return str(created.version)


def ensure(name: str) -> None:
    """Create a registered model, with its empty ledger, unless it is there."""
    client = store.client()
    try:
        client.get_registered_model(name)
    except MlflowException:
        try:
            client.create_registered_model(name, tags={ledger.RUN_TAG: ledger.create(name)})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _log_model(package: pathlib.Path, run: Run, files: Mapping[str, str]) -> Any:
    """Log a package as a model of a run that has ended, and leave it ended.

    `mlflow.pyfunc.log_model` would open the run again, and whoever died in it would leave a finished run open.
    """
    source = pathlib.Path(tunesmith.__file__).parent
    example = {"messages": [{"role": "user", "content": "When is my bill due?"}], "max_tokens": 4}
    client = store.client()
    params = client.get_run(run.id).data.params
    model = client.create_logged_model(run.experiment_id, name="package", source_run_id=run.id, params=params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=run.id,
            model_id=model.model_id,
            python_model=str(source / "registry" / "chat_model.py"),
            artifacts={"package": str(package)},
            signature=ModelSignature(inputs=CHAT_MODEL_INPUT_SCHEMA, outputs=CHAT_MODEL_OUTPUT_SCHEMA),
            input_example=example,
            code_paths=[str(source)],
            pip_requirements=(package / "requirements.txt").read_text(encoding="utf-8").splitlines(),
            model_config={"files": dict(files)},
        )


def model_files(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 by path of a logged model's files: the package, the code beside it, and MLflow's own."""
    return {name: digest for name, digest in manifest.list_files(folder).items() if name != ADDED_BY_MLFLOW}


def get(name: str, number: str) -> Version:
    """A version; raises `RegistryError` when it does not exist (any more)."""
    try:
        found = store.client().get_model_version(name, number)
    except MlflowException:
        raise RegistryError(f"{name}: version {number} does not exist; it was deleted") from None
    return Version(name, str(found.version), found.run_id, found.source, found.tags)


def of_run(name: str, run_id: str, *, evidence_sha256: str) -> Version | None:
    """The version that Tunesmith made of this run and this evidence, if it has."""
    found = store.client().search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    versions = [Version(name, str(one.version), one.run_id, one.source, one.tags) for one in found]
    return next((version for version in versions if version.tag("evidence_sha256") == evidence_sha256), None)


def find(reference: str) -> Version:
    """The version that `models:/NAME@ALIAS` or `models:/NAME/NUMBER` names; raises `RegistryError` for any other."""
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise RegistryError(
            f"{reference}: is not a registered version; write models:/NAME@ALIAS or models:/NAME/NUMBER"
        )
    if match["number"]:
        return get(match["name"], match["number"])
    found = by_alias(match["name"], match["alias"])
    if found is None:
        raise RegistryError(f"{reference}: no version of {match['name']} has that alias")
    return found


def fetch(version: Version) -> pathlib.Path:
    """The folder of a version's logged model, downloaded if it lies elsewhere."""
    try:
        return _folder(version.source)
    except (MlflowException, OSError):
        raise RegistryError(f"{version.name}: the files of version {version.number} were deleted") from None


def _folder(uri: str) -> pathlib.Path:
    """Where a logged model lies, if that is here; else a copy, which is removed when this process ends."""
    logged = LOGGED.fullmatch(uri)
    location = store.client().get_logged_model(logged["id"]).artifact_location if logged else ""
    here = urllib.parse.urlparse(location).scheme in {"", "file"}
    target = None if here else tempfile.mkdtemp(dir=_copies().name)
    folder = pathlib.Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=target))
    if here:
        _discard_bytecode(folder)
    return folder


def _discard_bytecode(folder: pathlib.Path) -> None:
    """Remove what Python keeps beside the code of a model that is loaded where it lies.

    It is no evidence: Python runs it in place of the verified source if only its header fits, and makes it
    anew where it is missing. What cannot be removed is then refused as a file that was added.
    """
    for cache in folder.rglob("__pycache__"):
        cache.unlink() if cache.is_symlink() else shutil.rmtree(cache, ignore_errors=True)


@functools.cache
def _copies() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tunesmith-")


def verify(version: Version) -> pathlib.Path:
    """Check a version's package, and the code that serves it, against what was registered; returns the package.

    Does not need torch or the base. Raises `RegistryError` that names the file.
    """
    where = f"{version.name} version {version.number}"
    if not version.tag("files_sha256"):
        raise RegistryError(f"{where}: was not registered by Tunesmith: it has no tag {TAG}files_sha256")
    folder = fetch(version)
    inside = f"{PACKAGE}/"
    try:
        recorded = recorded_files(version)
        package = {name.removeprefix(inside): digest for name, digest in recorded.items() if name.startswith(inside)}
        verify_package(folder / PACKAGE, expected=package)
        check_registered(model_files(folder), recorded)
    except RegistryError as error:
        raise RegistryError(f"{where}: {error}") from None
    return folder / PACKAGE


def recorded_files(version: Version) -> dict[str, str]:
    """SHA-256 by path of a version's files as they were registered."""
    try:
        recorded: dict[str, str] = attach(version.run_id).read_json(FILES)
    except (MlflowException, OSError, ValueError):
        raise RegistryError(f"{FILES}: is missing from run {version.run_id}") from None
    if manifest.digest(recorded) != version.tag("files_sha256"):
        raise RegistryError(f"{FILES}: was changed on run {version.run_id}")
    return recorded


def by_alias(name: str, alias: str) -> Version | None:
    """The version that an alias names, or None."""
    try:
        found = store.client().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise RegistryError(f"registry: {str(error).splitlines()[0]}") from None
    return Version(name, str(found.version), found.run_id, found.source, found.tags)


def set_alias(name: str, alias: str, number: str) -> None:
    """Let an alias name a version."""
    store.client().set_registered_model_alias(name, alias, number)
