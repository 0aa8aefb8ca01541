"""Model references: a hub id, a path, `bundled:NAME`, a `models:/` URI or a run, resolved to local files."""

import atexit
import dataclasses
import functools
import json
import pathlib
import shutil
import tempfile
from dataclasses import dataclass

import yaml

from tunesmith import manifest
from tunesmith.errors import ModelError
from tunesmith.models.bundled import bundled_path

HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class LocalModel:
    """A base model on this machine.

    `sha256` covers the names and contents of all its files; `revision` is the hub commit, if any. Of a model that
    was itself tuned, `adapter` is the folder of its adapter, and all else is said of the base below that.
    """

    reference: str
    path: pathlib.Path
    sha256: str
    revision: str | None = None
    adapter: pathlib.Path | None = None
    run_id: str = ""
    """The run that trained the adapter, if it is known."""

    @property
    def adapter_sha256(self) -> str:
        """SHA-256 of the adapter's weights; empty without one."""
        return manifest.sha256_file(self.adapter / "adapter_model.safetensors") if self.adapter else ""


def resolve(reference: str, *, revision: str | None = None) -> LocalModel:
    """Find the files a reference names; raises `ModelError` with the remedy when they cannot be had."""
    if reference.startswith("bundled:"):
        return _local(reference, bundled_path(reference.removeprefix("bundled:")))
    if reference.startswith("models:/"):
        return _from_registry(reference)
    if reference.startswith("runs:/"):
        return _from_run(reference)
    path = pathlib.Path(reference).expanduser()
    if path.is_dir():
        return _local(reference, path.resolve())
    if reference.startswith((".", "/", "~")):
        raise ModelError(f"model.base: {reference}: no such folder")
    return _from_hub(reference, revision)


def _local(reference: str, path: pathlib.Path, *, revision: str | None = None) -> LocalModel:
    if not (path / "config.json").is_file():
        raise ModelError(f"model.base: {reference}: {path} has no config.json; it is not a model folder")
    if not any(path.glob("*.safetensors")):
        raise ModelError(f"model.base: {reference}: no safetensors weights; other formats can run code and are refused")
    return LocalModel(reference=reference, path=path, sha256=weights_digest(path), revision=revision)


@functools.lru_cache(maxsize=8)
def weights_digest(path: pathlib.Path) -> str:
    """SHA-256 over the names and contents of a model folder's files."""
    return manifest.digest(manifest.list_files(path))


def _from_hub(reference: str, revision: str | None) -> LocalModel:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        path = snapshot_download(reference, revision=revision, allow_patterns=HUB_FILES)
    except HFValidationError:
        raise ModelError(f"model.base: {reference}: neither a folder here nor a hub id") from None
    except (LocalEntryNotFoundError, OSError):
        raise ModelError(
            f"model.base: {reference}: not in the local cache and the hub cannot be reached; "
            "connect, or use a path or bundled:smollm2-135m-instruct"
        ) from None
    return _local(reference, pathlib.Path(path), revision=pathlib.Path(path).name)


def _from_registry(reference: str) -> LocalModel:
    import mlflow

    try:
        folder = _fetched(reference)
    except mlflow.exceptions.MlflowException as error:
        raise ModelError(f"model.base: {reference}: {error.message.splitlines()[0]}") from None
    package = folder / "artifacts" / "package"
    manifest.verify(package)
    stored = json.loads((package / "base.json").read_text(encoding="utf-8"))
    base = resolve(stored["reference"], revision=stored["revision"])
    if base.sha256 != stored["sha256"]:
        raise ModelError(f"model.base: {reference}: its base {base.reference} has changed since it was trained")
    logged = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    return dataclasses.replace(base, adapter=package / "adapter", run_id=logged.get("run_id") or "")


def _from_run(reference: str) -> LocalModel:
    import mlflow

    try:
        root, file = _fetched(f"{reference}/adapter"), _fetched(f"{reference}/experiment.json")
        run_id = reference.removeprefix("runs:/")
        recorded = _base_recorded(run_id)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{reference}: no run of Tunesmith's that kept an adapter ({reason})") from None
    manifest.verify(root)
    stored = json.loads(file.read_text(encoding="utf-8"))["model"]
    base = resolve(stored["base"], revision=stored["revision"])
    if base.sha256 != recorded:
        raise ModelError(f"{reference}: its base {base.reference} has changed since it was trained")
    return dataclasses.replace(base, adapter=root, run_id=run_id)


def _base_recorded(run_id: str) -> str:
    """The base's SHA-256 as a run recorded it; for a trial or a confirmation, as its sweep did."""
    import mlflow

    tags = mlflow.get_run(run_id).data.tags
    parent = tags.get("mlflow.parentRunId")
    recorded = tags.get("tunesmith.base_sha256", "")
    return recorded if recorded or parent is None else _base_recorded(parent)


@functools.cache
def _fetched(uri: str) -> pathlib.Path:
    """An artifact, fetched once a process into a folder that goes with it: an alias means one version throughout."""
    import mlflow

    folder = tempfile.mkdtemp(prefix="tunesmith-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pathlib.Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
