"""Where a row stands, and how much of a file is looked at before it is refused."""

import pathlib
from typing import BinaryIO, NamedTuple

from tunesmith.errors import DataError

MAX_ROW_BYTES = 16 * 2**20
"""Longest row that is read; a longer one is refused without loading it."""


class Place(NamedTuple):
    """A row's place: the line of a text file, or the number of a row in a table."""

    file: str
    number: int
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.file}:{self.number}" if self.unit == "line" else f"{self.file}: {self.unit} {self.number}"


def open_bytes(path: pathlib.Path) -> BinaryIO:
    """Open a file for reading; raises `DataError` with the reason."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def too_long(where: object) -> DataError:
    """The refusal of a row beyond `MAX_ROW_BYTES`."""
    return DataError(f"{where}: longer than {MAX_ROW_BYTES // 2**20} MiB, the most that one row may have; split it")
