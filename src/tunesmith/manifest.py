"""Folders that are whole or absent: written aside, synced, listed with SHA-256s, then renamed.

`manifest.json` in such a folder maps each file's relative path to its SHA-256.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from tunesmith.errors import TunesmithError

NAME = "manifest.json"


class ManifestError(TunesmithError):
    """A folder's files are not what its manifest says."""


def sha256_file(path: pathlib.Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 by relative path of every file below `folder` but the manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256_file(path) for path in files if path.name != NAME}


@contextlib.contextmanager
def writing(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give a temporary folder that becomes `target`, with its manifest, when the block ends well.

    A folder already at `target` is replaced. Nothing appears at `target` if the block raises.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield aside
        files = list_files(aside)
        (aside / NAME).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")
        for name in [*files, NAME]:
            _sync(aside / name)
        aside.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def writing_file(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give a temporary path beside `target` that replaces it, synced, when the block ends well.

    A file already at `target` stays as it is, and nothing else appears, if the block raises.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    os.close(handle)
    aside = pathlib.Path(name)
    try:
        yield aside
        aside.chmod(0o644)
        _sync(aside)
        aside.replace(target)
        _sync(target.parent)
    finally:
        aside.unlink(missing_ok=True)


def _sync(path: pathlib.Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def verify(folder: pathlib.Path) -> dict[str, str]:
    """Return the manifest of `folder`; raises `ManifestError` naming the first file that differs."""
    try:
        expected = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ManifestError(f"{folder / NAME}: missing or broken; the folder cannot be trusted") from None
    found = list_files(folder)
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            problem = "is missing" if name not in found else "was not listed" if name not in expected else "was changed"
            raise ManifestError(f"{folder / name}: {problem} since the folder was written")
    return dict(expected)


def digest(files: dict[str, str]) -> str:
    """One SHA-256 for a whole manifest, in hex."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
