"""The exact command that repeats a run alone."""

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
    original = overrides.values_of(Experiment.from_yaml(experiment.path), under)
    return {
        name: _text(value)
        for name, value in overrides.values_of(experiment, under).items()
        if value != original.get(name)
    }


def relative_to_project(path: pathlib.Path) -> str:
    """A file's path as it is typed in the project's folder."""
    return os.path.relpath(path.resolve(), project_root())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
