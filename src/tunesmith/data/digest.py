"""Content digests of rows: equal digests mean equal data, nested chat turns included.

MLflow's own dataset digest ignores nested columns and rows past 10,000, so it is never used here.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from tunesmith.records import Row


def canonical(value: Any) -> str:
    """The one JSON text of a value: keys sorted, no spaces, non-ASCII kept."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def digest_rows(rows: Iterable[Row]) -> str:
    """SHA-256 over the digests of the rows, in order, in hex."""
    root = hashlib.sha256()
    for row in rows:
        root.update(bytes.fromhex(digest_of(row)))
    return root.hexdigest()
