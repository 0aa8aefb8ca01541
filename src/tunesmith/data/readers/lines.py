"""JSONL: one object a line."""

import pathlib
from collections.abc import Iterator
from typing import Any

from tunesmith.data.readers import place as places
from tunesmith.data.readers.parsing import decode, parse_object
from tunesmith.data.readers.place import Place, open_bytes, too_long
from tunesmith.errors import DataError

BOM = b"\xef\xbb\xbf"


def read_jsonl(path: pathlib.Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield place and object of each line; raises `DataError` naming file and line."""
    for where, text in read_lines(path):
        if not text.strip():
            raise DataError(f"{where}: empty line; remove it")
        yield where, parse_object(text.rstrip(), where=where)


def read_lines(path: pathlib.Path) -> Iterator[tuple[Place, str]]:
    """Yield place and text of each line; raises `DataError` for an empty file and for what is not text.

    A line beyond `MAX_ROW_BYTES` is refused after reading that much of it.
    """
    name, number = str(path), 0
    with open_bytes(path) as file:
        while line := file.readline(places.MAX_ROW_BYTES + 1):
            number += 1
            where = Place(name, number)
            if len(line) > places.MAX_ROW_BYTES:
                raise too_long(where)
            yield where, decode(line.removeprefix(BOM) if number == 1 else line, where=where)
    if number == 0:
        raise DataError(f"{path}: is empty; it needs one JSON object a line")
