"""Runs whose status is truthful: FINISHED, FAILED by an error, KILLED by a signal or by halving.

`mlflow run` rewrites the status of a project's run after the command has exited, so the tag
`tunesmith.status` holds the truth; `tunesmith doctor --reap` copies it back.
"""

import contextlib
import getpass
import json
import math
import os
import pathlib
import platform
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from tunesmith.errors import SupersededError, Terminated, TrackingError
from tunesmith.tracking import store

TAG = "tunesmith."
EXTENDS = "extends"  # the tag of a sweep that adds trials to another: that one's run
MAX_TAG_LENGTH = 5000
FLUSH_SECONDS = 2.0
MOST_IN_A_BATCH = 1000  # what MLflow takes in one call


class Killed(Exception):
    """A run was stopped on purpose, by halving or because its parent stops."""


@dataclass
class Run:
    """One MLflow run, addressed by its id; nothing here depends on a current run.

    Metrics are written behind; whatever else is written takes those along that wait.
    """

    id: str
    experiment_id: str
    _pending: list[Metric] = field(default_factory=list)
    _flushed: float = field(default_factory=time.monotonic)
    _logged: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters."""
        self._write(params=[Param(key, str(value)) for key, value in values.items()])

    def new_params(self, values: Mapping[str, Any]) -> None:
        """Log the parameters that `mlflow run` has not logged under the same name already."""
        known = store.client().get_run(self.id).data.params
        self.params({key: value for key, value in values.items() if key not in known})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags under `tunesmith.`."""
        self._write(tags=[RunTag(f"{TAG}{key}", str(value)[:MAX_TAG_LENGTH]) for key, value in values.items()])

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Log metrics, written behind in batches at most `FLUSH_SECONDS` apart; non-finite ones are left out.

        So are steps that were logged before: a training that lost its worker, or its coordinator, makes some again.
        """
        now = int(time.time() * 1000)
        for key, value in values.items():
            if math.isfinite(value) and step not in self._logged[key]:
                self._pending.append(Metric(key, float(value), now, step))
                if step:  # what has no steps may be logged anew
                    self._logged[key].add(step)
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Write pending metrics if the last writing was `FLUSH_SECONDS` ago."""
        if self._pending and time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write all pending metrics."""
        self._write()

    def _write(self, *, params: Sequence[Param] = (), tags: Sequence[RunTag] = ()) -> None:
        while params or tags or self._pending:
            room = MOST_IN_A_BATCH - len(params) - len(tags)
            batch, self._pending = self._pending[:room], self._pending[room:]
            store.client().log_batch(self.id, metrics=batch, params=params, tags=tags)
            params, tags = (), ()
        self._flushed = time.monotonic()

    def artifact(self, path: pathlib.Path, folder: str | None = None) -> None:
        """Log a file, or a folder's contents."""
        if path.is_dir():
            store.client().log_artifacts(self.id, str(path), folder)
        else:
            store.client().log_artifact(self.id, str(path), folder)

    def text(self, text: str, name: str) -> None:
        """Log a text as the artifact `name`."""
        store.client().log_text(self.id, text, name)

    def json(self, value: Any, name: str) -> None:
        """Log a value as the JSON artifact `name`."""
        self.text(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n", name)

    def read_json(self, name: str) -> Any:
        """The value of a JSON artifact."""
        with tempfile.TemporaryDirectory() as folder:
            path = store.client().download_artifacts(self.id, name, folder)
            return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))

    def tag(self, key: str) -> str:
        """The value of a tag under `tunesmith.`; empty if it is not set. For a confirmation or trial, its sweep's."""
        tags = store.client().get_run(self.id).data.tags
        parent = tags.get("mlflow.parentRunId")
        value = tags.get(f"{TAG}{key}", "")
        return value if value or not parent else attach(parent).tag(key)

    def download(self, name: str, target: pathlib.Path) -> pathlib.Path:
        """Fetch an artifact, a file or a folder, below `target`; returns where it lies."""
        target.mkdir(parents=True, exist_ok=True)
        return pathlib.Path(store.client().download_artifacts(self.id, name, str(target)))

    def finish(self, status: str, *, reason: str = "") -> None:
        """End the run with its truthful status."""
        self.tags({"status": status, **({"reason": reason} if reason else {})})
        store.client().set_terminated(self.id, status)
        self._logged.clear()


def create(
    experiment: str, name: str, *, kind: str, parent: Run | None = None, tags: Mapping[str, Any] | None = None
) -> Run:
    """Create a run, as a child of `parent` if given, in the parent's MLflow experiment.

    `tags`, set under `tunesmith.`, are there as soon as the run is: nothing can die in between.
    """
    experiment_id = parent.experiment_id if parent else store.experiment_id(experiment)
    own = {f"{TAG}{key}": str(value)[:MAX_TAG_LENGTH] for key, value in (tags or {}).items()}
    all_tags = {"mlflow.runName": name, "mlflow.user": principal(), **identity(kind), **own}
    if parent:
        all_tags["mlflow.parentRunId"] = parent.id
    created = store.client().create_run(experiment_id, run_name=name, tags=all_tags)
    return Run(created.info.run_id, experiment_id)


def adopt_or_create(experiment: str, name: str, *, kind: str) -> Run:
    """The run that `mlflow run` opened for this process, or a new one."""
    given = os.environ.pop("MLFLOW_RUN_ID", None)
    if given is None:
        return create(experiment, name, kind=kind)
    store.client().update_run(given, name=name)
    run = Run(given, store.client().get_run(given).info.experiment_id)
    store.client().log_batch(given, tags=[RunTag(k, v) for k, v in identity(kind).items()])
    return run


def attach(run_id: str) -> Run:
    """An existing run, open or ended."""
    try:
        return Run(run_id, store.client().get_run(run_id).info.experiment_id)
    except MlflowException:
        raise TrackingError(f"{run_id}: no such run in {store.tracking_uri()}") from None


@contextlib.contextmanager
def recording(run: Run) -> Iterator[Run]:
    """End `run` with the status that fits how the block ends; signals become KILLED.

    One that another process has taken over stays as it is.
    """
    with sigterm_raises():
        try:
            yield run
        except SupersededError:
            raise
        except (KeyboardInterrupt, Killed) as stop:
            run.finish("KILLED", reason=str(stop) or type(stop).__name__)
            raise
        except BaseException as error:
            run.finish("FAILED", reason=str(error).splitlines()[0] if str(error) else type(error).__name__)
            raise
        run.finish("FINISHED")


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` inside the block, in the main thread."""

    def terminate(*_: object) -> None:
        raise Terminated("SIGTERM")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def identity(kind: str) -> dict[str, str]:
    """Tags that say what a run is and which process feeds it, so that a dead one can be told."""
    process = {"host": socket.gethostname(), "pid": os.getpid(), "process_started": process_start(os.getpid())}
    return {f"{TAG}kind": kind, **{f"{TAG}{key}": str(value) for key, value in process.items()}}


def process_start(pid: int) -> str:
    """When a process of this machine started, in clock ticks since boot; empty if it is gone or has ended unreaped."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in {"Z", "X"} else fields[19]


def provenance() -> dict[str, str]:
    """Tags of the code and machine: commit, whether the tree is dirty, lock digest, processor, threads."""
    from tunesmith import manifest

    root = store.project_root()
    lock = root / "requirements.lock"
    tags = {"python": platform.python_version(), "machine": f"{platform.machine()} {os.cpu_count()} cores"}
    if lock.is_file():
        tags["lock_sha256"] = manifest.sha256_file(lock)
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags |= {"git_commit": commit, "git_dirty": str(bool(_git("status", "--porcelain"))).lower()}
    return tags


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(store.project_root()), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def principal() -> str:
    """Who acts: the name given to the tracking server, else this machine's user."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (OSError, KeyError):  # no such user in this container
        return "unknown"
