"""Tables: CSV, where lists are JSON in a cell, and Parquet."""

import csv
import datetime
import decimal
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from tunesmith.data.readers import place as places
from tunesmith.data.readers.lines import read_lines
from tunesmith.data.readers.parsing import parse_value
from tunesmith.data.readers.place import Place, open_bytes, too_long
from tunesmith.errors import DataError

BATCH = 256
PARQUET_BUFFER = 2**18  # bytes of a column that are read at a time, rather than all of a row group's
LISTS = ("messages", "conversations", "choices", "history")
LISTS_OR_TEXTS = ("prompt", "completion", "chosen", "rejected")
TRUTH = {"true": True, "1": True, "false": False, "0": False}


def read_csv(path: pathlib.Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield place and object of each record under a header; empty cells are absent keys."""
    csv.field_size_limit(places.MAX_ROW_BYTES)
    lines = (text for _, text in read_lines(path))
    reader = csv.reader(lines, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    header: list[str] | None = None
    while True:
        where = Place(str(path), reader.line_num + 1)
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if "field limit" in str(error):
                raise too_long(where) from None
            raise DataError(f"{where}: broken CSV: {error}; is a quote left open?") from None
        if cells is None:
            break
        if header is None:
            header = _checked_header(cells, where)
            continue
        if len(cells) != len(header):
            raise DataError(f"{where}: {len(cells)} cells under a header of {len(header)}; quote texts with commas")
        yield where, {key: _cell(key, cell, where) for key, cell in zip(header, cells, strict=True) if cell.strip()}
    if reader.line_num < 2:
        raise DataError(f"{path}: has a header but no rows")


def _checked_header(cells: list[str], where: Place) -> list[str]:
    header = [cell.strip() for cell in cells]
    if not all(header) or len(set(header)) < len(header):
        raise DataError(f"{where}: the header needs a different name for each column")
    return header


def _cell(key: str, cell: str, where: Place) -> Any:
    if key in LISTS:
        return parse_value(cell, where=f"{where}: {key}")
    if key in LISTS_OR_TEXTS and cell.lstrip().startswith("["):
        try:
            turns = json.loads(cell)
        except ValueError:
            return cell
        return turns if all(isinstance(turn, dict) for turn in turns) else cell
    if key == "label":
        return TRUTH.get(cell.strip().lower(), cell)
    return int(cell) if key == "answer" and cell.strip().isdecimal() else cell


def read_parquet(path: pathlib.Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield place and object of each row, a batch of a row group at a time; nulls are absent keys."""
    import pyarrow
    from pyarrow import parquet

    number, name = 0, str(path)
    open_bytes(path).close()
    try:
        file = parquet.ParquetFile(name, pre_buffer=False, buffer_size=PARQUET_BUFFER)
        for batch in file.iter_batches(batch_size=BATCH):
            if batch.nbytes > BATCH * places.MAX_ROW_BYTES:
                raise too_long(f"{path}: rows {number + 1} to {number + batch.num_rows}")
            for row in batch.to_pylist():
                number += 1
                yield (where := Place(name, number, "row")), plain_row(row, where=where)
    except pyarrow.ArrowException:
        raise DataError(f"{path}: not a Parquet file, or damaged after row {number}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 in one of rows {number + 1} to {number + BATCH}") from None
    if number == 0:
        raise DataError(f"{path}: is empty; it needs at least one row")


def plain_row(row: dict[str, Any], *, where: object) -> dict[str, Any]:
    """A table's row as JSON would hold it: nulls and NaN are absent keys, dates are ISO texts."""
    return {key: plain(value, where=f"{where}: {key}") for key, value in row.items() if not _missing(value)}


def plain(value: Any, *, where: str) -> Any:
    """A value as JSON would hold it; raises `DataError` at `where` for bytes, images and the like."""
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [None if _missing(member) else plain(member, where=where) for member in value]
    if isinstance(value, dict):
        return {key: plain(member, where=where) for key, member in value.items() if not _missing(member)}
    convert = next((CONVERTERS[kind] for kind in CONVERTERS if isinstance(value, kind)), None)
    if convert is None:
        raise DataError(f"{where}: holds {type(value).__name__}; only texts, numbers, lists and objects can be used")
    return convert(value)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


CONVERTERS: dict[type, Callable[[Any], Any]] = {
    datetime.datetime: datetime.datetime.isoformat,
    datetime.date: datetime.date.isoformat,
    datetime.time: datetime.time.isoformat,
    decimal.Decimal: str,
}
