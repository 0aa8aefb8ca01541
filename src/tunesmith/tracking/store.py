"""Where runs are tracked: always an explicit URI, checked before any work starts."""

import contextlib
import functools
import os
import pathlib
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tunesmith.errors import TrackingError

HEALTH_TIMEOUT_S = 5


def project_root() -> pathlib.Path:
    """The nearest folder upwards that holds an MLproject file, else the current one."""
    here = pathlib.Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "MLproject").is_file()), here)


def state_folder() -> pathlib.Path:
    """Where checkpoints and scratch files of running work lie; safe to delete when nothing runs."""
    folder = project_root() / ".tunesmith"
    folder.mkdir(exist_ok=True)
    return folder


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, else an SQLite file in the project root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root() / 'mlflow.db'}"


@functools.lru_cache(maxsize=1)
def client() -> MlflowClient:
    """A client of the tracking store; raises `TrackingError` when it cannot be reached.

    The first user of a fresh database creates its tables; a lock lets others wait for that.
    """
    uri = tracking_uri()
    _check_reachable(uri)
    os.environ["MLFLOW_TRACKING_URI"] = uri
    store = MlflowClient(tracking_uri=uri)
    try:
        with FileLock(state_folder() / "store.lock"):
            store.search_experiments(max_results=1)
    except (MlflowException, sqlite3.Error) as error:
        raise TrackingError(f"MLFLOW_TRACKING_URI {uri}: {str(error).splitlines()[0]}") from None
    return store


@contextlib.contextmanager
def using(uri: str) -> Iterator[None]:
    """Work with another tracking store inside the block."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    client.cache_clear()
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        client.cache_clear()
        if before is None:
            os.environ.pop("MLFLOW_TRACKING_URI")
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _check_reachable(uri: str) -> None:
    parsed = urllib.parse.urlparse(uri)
    if parsed.scheme in {"http", "https"}:
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=HEALTH_TIMEOUT_S):  # noqa: S310
                return
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise TrackingError(
                f"MLFLOW_TRACKING_URI {uri}: no answer ({reason}); start the server or unset it"
            ) from None
    if parsed.scheme in {"", "file"}:
        raise TrackingError(
            f"MLFLOW_TRACKING_URI {uri}: MLflow no longer keeps runs in plain files; use sqlite:///FILE"
        )


def experiment_id(name: str) -> str:
    """The id of an MLflow experiment, created if need be; a local one keeps its artifacts beside its database."""
    store = client()
    found = store.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise TrackingError(f"MLflow experiment {name} is deleted; restore it or rename the experiment")
        return str(found.experiment_id)
    database = tracking_uri().removeprefix("sqlite:///")
    local = database != tracking_uri()
    location = (pathlib.Path(database).resolve().parent / "mlruns" / name).as_uri() if local else None
    try:
        return str(store.create_experiment(name, artifact_location=location))
    except MlflowException:
        found = store.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)
