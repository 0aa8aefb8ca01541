"""The exact command that repeats a run alone."""

import functools
import json
import os
import pathlib
import shlex
from typing import Any

from tunesmith.config import overrides
from tunesmith.config.experiment import Experiment
from tunesmith.tracking.store import project_root


def run_command(experiment: Experiment) -> str:
    """The `mlflow run` command line that trains this experiment, overrides of its file included."""
    pairs = [("experiment", relative_to_project(experiment.path)), *changes(experiment).items()]
    arguments = " ".join(f"-P {shlex.quote(f'{name}={value}')}" for name, value in pairs)
    return f"mlflow run . -e {experiment.method.kind} {arguments}"


def changes(experiment: Experiment, under: str | tuple[str, ...] = "") -> dict[str, str]:
    """The fields, their names beginning so, that differ from the experiment's file, each with its value as text."""
    written = overrides.values_of(_as_written(experiment.path, experiment.path.stat().st_mtime_ns), under)
    values = overrides.values_of(experiment, under)
    return {name: _text(value) for name, value in values.items() if value != written.get(name)}


@functools.lru_cache(maxsize=8)
def _as_written(path: pathlib.Path, _written: int) -> Experiment:
    """An experiment as its file has it, read once as long as that is not written again: a sweep asks at each trial."""
    return Experiment.from_yaml(path)


def relative_to_project(path: pathlib.Path) -> str:
    """A file's path as it is typed in the project's folder."""
    return os.path.relpath(path.resolve(), project_root())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
