"""What was measured on this machine, kept in the cache folder so that all runs and workers choose alike."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from filelock import FileLock

from tunesmith.models.bundled import cache_folder


def measured_once(file: str, key: str, measure: Callable[[], Any]) -> Any:
    """The plain value kept under `key` in `file` of the cache folder; measured and kept if there is none.

    Who comes while it is measured waits and takes the same value: two measurements at once would disturb each other,
    and what is decided by them would depend on who kept its own last.
    """
    path = cache_folder() / file
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(path.read_text(encoding="utf-8"))
        if key not in known:
            known[key] = measure()
            aside = path.with_suffix(f".{os.getpid()}")
            aside.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
            aside.replace(path)
        return known[key]


def cpu_model() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown CPU"
