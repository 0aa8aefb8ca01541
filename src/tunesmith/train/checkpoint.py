"""Checkpoints of a training: whole or absent, checked when read, the newest sound one used.

A checkpoint is a folder `step-000060` with `state.safetensors` (weights, moments, the state of the
random number generator), `state.json` (step count, place in the data, what it belongs to) and a manifest of SHA-256s.
"""

import contextlib
import json
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file

from tunesmith import manifest
from tunesmith.errors import DiskError, TrainingError

TENSORS, RECORD, RANDOM = "state.safetensors", "state.json", "random_state"
DAMAGED = ".damaged"

T = TypeVar("T")

Warn = Callable[[str], object]
"""Who is told of a damaged checkpoint, in one line."""


@dataclass(frozen=True)
class Checkpoint:
    """A training after `step` optimiser steps: tensors by name, and a record of plain values."""

    step: int
    tensors: dict[str, torch.Tensor]
    record: dict[str, Any] = field(default_factory=dict)


def save(folder: pathlib.Path, checkpoint: Checkpoint, *, keep: int = 2) -> pathlib.Path:
    """Write a checkpoint into `folder`, then remove all but the newest `keep`; returns its own folder.

    Raises `DiskError` when the disk is full; what was there before is untouched then.
    """
    target = folder_of(folder, checkpoint.step)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    record = {**checkpoint.record, "step": checkpoint.step}
    with room_for(target), manifest.writing(target) as aside:
        save_file({**tensors, RANDOM: torch.get_rng_state()}, aside / TENSORS)
        (aside / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    keep_newest(folder, keep)
    return target


@contextlib.contextmanager
def room_for(target: pathlib.Path) -> Iterator[None]:
    """Turn what stops the block from writing `target` into a `DiskError` with its remedy."""
    try:
        yield
    except Exception as error:  # safetensors raises an error of its own
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise DiskError(f"{target}: cannot be written ({error}); free some space and resume") from None
        raise


def folder_of(folder: pathlib.Path, step: int) -> pathlib.Path:
    """Where the checkpoint after `step` optimiser steps lies."""
    return folder / f"step-{step:06d}"


def keep_newest(folder: pathlib.Path, keep: int = 2) -> None:
    """Remove all but the newest checkpoints of a training."""
    for old in folders(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)


def read(folder: pathlib.Path) -> Checkpoint:
    """Read and verify one checkpoint; raises `ManifestError` naming a file that was changed or is missing."""
    files = manifest.verify(folder)
    missing = [name for name in (TENSORS, RECORD) if name not in files]
    if missing:
        raise TrainingError(f"{folder / missing[0]}: not part of the checkpoint")
    tensors = load_file(folder / TENSORS)
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return Checkpoint(int(record.pop("step")), tensors, record)


def newest(folder: pathlib.Path, *, at_most: int | None = None, warn: Warn = warnings.warn) -> Checkpoint | None:
    """The newest sound checkpoint in `folder`, of step `at_most` or before; None if there is none.

    A damaged one is renamed to `….damaged`, named in a warning, and the one before it is tried.
    """
    return newest_by(read, folder, at_most=at_most, warn=warn)


def newest_by(
    read: Callable[[pathlib.Path], T],
    folder: pathlib.Path,
    *,
    at_most: int | None = None,
    warn: Warn = warnings.warn,
) -> T | None:
    """Like `newest`, for checkpoints that `read` reads; it raises `ManifestError` for a damaged one."""
    for candidate in folders(folder):
        if at_most is not None and step_of(candidate) > at_most:
            continue
        try:
            return read(candidate)
        except (manifest.ManifestError, TrainingError) as error:
            aside = _quarantine(candidate)
            warn(f"{error}; the checkpoint was set aside as {aside.name}")
    return None


def folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Checkpoints, newest first."""
    found = [path for path in folder.glob("step-*") if path.is_dir() and path.name[5:].isdigit()]
    return sorted(found, key=step_of, reverse=True)


def step_of(folder: pathlib.Path) -> int:
    """The optimiser steps after which a checkpoint was taken."""
    return int(folder.name[5:])


def _quarantine(folder: pathlib.Path) -> pathlib.Path:
    target = folder.with_name(folder.name + DAMAGED)
    number = 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}{DAMAGED}-{number}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(target)
    return target
