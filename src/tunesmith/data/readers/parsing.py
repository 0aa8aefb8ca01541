"""Bytes to objects, where every problem is named by its place and no content leaks into messages."""

import json
import re
from typing import Any, NoReturn

from tunesmith.errors import DataError

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write null")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def decode(line: bytes, *, where: object) -> str:
    """UTF-8 bytes as text; raises `DataError` at `where` for NUL bytes and for anything but UTF-8."""
    if b"\0" in line:
        raise DataError(
            f"{where}: NUL byte at byte {line.index(0)}; the file is damaged, or not UTF-8: save it as UTF-8"
        )
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start}; re-save the file as UTF-8") from None


def parse_object(text: str, *, where: object) -> dict[str, Any]:
    """The one object that `text` holds; raises `DataError` at `where`."""
    row = parse_value(text, where=where)
    if not isinstance(row, dict):
        raise DataError(f"{where}: a row must be an object, not {type(row).__name__}")
    return row


def parse_value(text: str, *, where: object) -> Any:
    """The one JSON value that `text` holds; raises `DataError` at `where`."""
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: broken JSON at column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: broken JSON: {reason(error)}") from None
    if SURROGATE.search(text):
        check_encodes(value, where=where)
    return value


def reason(error: Exception) -> str:
    """Why a value was refused that is JSON by its grammar."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error) if "is not JSON" in str(error) else "a number with too many digits"


def check_encodes(value: Any, *, where: object) -> None:
    """Raise `DataError` at `where` if a text holds half of a surrogate pair, which no file can store."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: half of a surrogate pair (\\ud800 to \\udfff); the text was cut") from None
