"""Content digests of rows: equal digests mean equal data, nested chat turns included.

MLflow's own dataset digest ignores nested columns and rows past 10,000, so it is never used here.
Where a row was read from is no part of what it says: `provenance` is left out.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from tunesmith.records import Row

UNVERSIONED = "provenance"
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical(value: Any) -> str:
    """The one JSON text of a value: keys sorted, no spaces, non-ASCII kept."""
    return ENCODER.encode(value)


def sha256(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hex."""
    return sha256(canonical(value))


def row_digest(row: Row) -> bytes:
    """SHA-256 of a row's canonical JSON without its provenance, 32 bytes."""
    return bytes.fromhex(digest_of({key: value for key, value in row.items() if key != UNVERSIONED}))


class Root:
    """SHA-256 over the digests of rows, in order, taken one row at a time."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def add(self, digest: bytes) -> None:
        """Add the next row's digest."""
        self.hash.update(digest)

    def hex(self) -> str:
        """The root over all rows so far, in hex."""
        return self.hash.hexdigest()


def digest_rows(rows: Iterable[Row]) -> str:
    """SHA-256 over the digests of the rows, in order, in hex."""
    root = Root()
    for row in rows:
        root.add(row_digest(row))
    return root.hex()
