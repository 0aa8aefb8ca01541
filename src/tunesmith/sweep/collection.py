"""What sweeps leave on disk, and which of it can go."""

import contextlib
import pathlib
import shutil
from dataclasses import dataclass

from filelock import FileLock, Timeout

from tunesmith.sweep import study as studies
from tunesmith.sweep.lease import KEY, is_live
from tunesmith.tracking.store import state_folder

FINISHED = "finished"


IN_USE = "in-use.lock"
"""A file in a sweep's folder, locked by the process that runs the sweep as long as it lives."""


@dataclass(frozen=True)
class Leftover:
    """A folder of a sweep that no process runs, its size in bytes, and whether the store knows the sweep."""

    path: pathlib.Path
    size: int
    known: bool


def sweep_folder(study: str) -> pathlib.Path:
    """Where a sweep keeps its checkpoints, adapters and its workers' logs while it goes on."""
    return state_folder() / "sweeps" / study


def mark_in_use(folder: pathlib.Path) -> FileLock:
    """Lock a sweep's folder against `leftovers` until this process ends or releases the lock."""
    lock = FileLock(folder / IN_USE)
    with contextlib.suppress(Timeout):  # who ran the sweep before, and lost it, may still be there
        lock.acquire(timeout=0)
    return lock


def _is_in_use(folder: pathlib.Path) -> bool:
    if not (folder / IN_USE).exists():
        return False
    try:
        with FileLock(folder / IN_USE, timeout=0):
            return False
    except Timeout:
        return True


def collect(folder: pathlib.Path, *, keep: set[str]) -> None:
    """After a sweep, remove all of its folder but the trainings to keep."""
    for path in folder.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def leftovers() -> list[Leftover]:
    """Folders of sweeps that have finished, or that this store does not know; one that can be resumed is none.

    An unknown sweep is another store's, or its study is gone: only a person can tell.
    """
    root = sweep_folder("any").parent
    attributes = {study.study_name: study.user_attrs for study in studies.summaries()}
    found = []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        known = attributes.get(path.name)
        live = known is not None and bool(known.get(KEY)) and is_live(known[KEY])
        if not live and not _is_in_use(path) and (known is None or known.get(FINISHED)):
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            found.append(Leftover(path, size, known is not None))
    return found


def remove(found: list[Leftover]) -> None:
    """Remove folders that `leftovers` found."""
    for leftover in found:
        shutil.rmtree(leftover.path)
