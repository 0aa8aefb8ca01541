"""What was measured on this machine, kept in the cache folder so that all runs and workers choose alike."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from tunesmith.models.bundled import cache_folder


def measured_once(file: str, key: str, measure: Callable[[], Any]) -> Any:
    """The plain value kept under `key` in `file` of the cache folder; measured and kept if there is none."""
    path = cache_folder() / file
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(path.read_text(encoding="utf-8"))
    if key not in known:
        known[key] = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
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
