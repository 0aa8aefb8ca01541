"""What sweeps leave on disk, and which of it can go."""

import pathlib
import shutil
from dataclasses import dataclass

from tunesmith.sweep import study as studies
from tunesmith.sweep.coordinator import sweep_folder
from tunesmith.sweep.lease import KEY, is_live

FINISHED = "finished"


@dataclass(frozen=True)
class Leftover:
    """A folder of a sweep that nothing needs any more, and its size in bytes."""

    path: pathlib.Path
    size: int


def collect(folder: pathlib.Path, *, keep: set[str]) -> None:
    """After a sweep, remove all of its folder but the trainings to keep."""
    for path in folder.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def leftovers() -> list[Leftover]:
    """Folders of sweeps that have finished, or whose study is gone; one that can be resumed is none."""
    root = sweep_folder("any").parent
    attributes = {study.study_name: study.user_attrs for study in studies.summaries()}
    found = []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        known = attributes.get(path.name)
        live = known is not None and bool(known.get(KEY)) and is_live(known[KEY])
        if not live and (known is None or known.get(FINISHED)):
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            found.append(Leftover(path, size))
    return found


def remove(found: list[Leftover]) -> None:
    """Remove what `leftovers` found."""
    for leftover in found:
        shutil.rmtree(leftover.path)
