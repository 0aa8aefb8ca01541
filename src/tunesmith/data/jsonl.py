"""Reading JSONL, where every problem is named by file and line and no content leaks into messages."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from tunesmith.errors import DataError


def read_jsonl(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each line; raises `DataError` naming file and line."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    with file:
        number = 0
        for number, line in enumerate(file, 1):
            yield number, parse_line(line, where=f"{path}:{number}")
        if number == 0:
            raise DataError(f"{path}: is empty; it needs one JSON object a line")


def parse_line(line: bytes, *, where: str) -> dict[str, Any]:
    """One line's object; raises `DataError` at `where`."""
    if not line.strip():
        raise DataError(f"{where}: empty line; remove it")
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start}; re-save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: broken JSON at column {error.colno}: {error.msg}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row must be an object, not {type(row).__name__}")
    return row
