"""Versions in the registry: a package logged as an MLflow model from code, with its evidence linked."""

import pathlib
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types.llm import CHAT_MODEL_INPUT_SCHEMA, CHAT_MODEL_OUTPUT_SCHEMA

import tunesmith
from tunesmith import manifest
from tunesmith.errors import RegistryError
from tunesmith.tracking import store
from tunesmith.tracking.runs import TAG, Run

REQUIREMENTS = ("mlflow", "torch", "transformers", "peft", "safetensors", "gguf", "pydantic", "pyyaml")


def register(package: pathlib.Path, run: Run, name: str, *, tags: Mapping[str, Any]) -> str:
    """Log a package as a model of `run`, register it as `name`, and return the new version's number."""
    files = manifest.verify(package)
    info = _log_model(package, run)
    client = store.client()
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(name, source=info.model_uri, run_id=run.id, model_id=info.model_id)
    for key, value in {**tags, "package_sha256": manifest.digest(files)}.items():
        client.set_model_version_tag(name, created.version, f"{TAG}{key}", str(value))
    return str(created.version)


def _log_model(package: pathlib.Path, run: Run) -> Any:
    source = pathlib.Path(tunesmith.__file__).parent
    example = {"messages": [{"role": "user", "content": "When is my bill due?"}], "max_tokens": 4}
    with mlflow.start_run(run_id=run.id), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mlflow.pyfunc.log_model(
            name="package",
            python_model=str(source / "registry" / "chat_model.py"),
            artifacts={"package": str(package)},
            signature=ModelSignature(inputs=CHAT_MODEL_INPUT_SCHEMA, outputs=CHAT_MODEL_OUTPUT_SCHEMA),
            input_example=example,
            code_paths=[str(source)],
            pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
        )


def by_alias(name: str, alias: str) -> Any | None:
    """The version that an alias names, or None."""
    try:
        return store.client().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise RegistryError(f"registry: {str(error).splitlines()[0]}") from None


def set_alias(name: str, alias: str, number: str) -> None:
    """Let an alias name a version."""
    store.client().set_registered_model_alias(name, alias, number)
