"""JSON: a list of objects, or objects one after the other, read a window at a time."""

import codecs
import json
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from tunesmith.data.readers import place as places
from tunesmith.data.readers.parsing import DECODER, SURROGATE, check_encodes, reason
from tunesmith.data.readers.place import Place, open_bytes, too_long
from tunesmith.errors import DataError

CHUNK = 2**16
NEAR_THE_END = 12  # characters: the longest escape or literal that a chunk's end can cut
TYPES = {"[": "list", '"': "str", "t": "bool", "f": "bool", "n": "NoneType"}
BLANK = " \t\r\n"


def read_json(path: pathlib.Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield place and object of each element; raises `DataError` naming file and line."""
    with open_bytes(path) as file:
        window = Window(path, file)
        first = window.peek()
        if not first:
            raise DataError(f"{path}: is empty; it needs a list of JSON objects")
        if first not in "[{":
            raise DataError(f"{window.where()}: a JSON file must hold a list of objects")
        if first == "{":
            while window.peek():
                yield window.where(), window.element()
            return
        window.take()
        yield from _members(window)
        if window.peek():
            raise DataError(f"{window.where()}: broken JSON: text after the end of the list")


def _members(window: "Window") -> Iterator[tuple[Place, dict[str, Any]]]:
    following = window.peek()
    while following != "]":
        yield window.where(), window.element()
        following = window.peek()
        if following == ",":
            window.take()
            following = window.peek() or "?"
            if following == "]":
                raise DataError(f"{window.where()}: broken JSON: a comma before the end of the list")
        elif following != "]":
            raise DataError(f"{window.where()}: broken JSON: expecting ',' or ']'; is the file cut?")
    window.take()


class Window:
    """The part of a JSON file that is looked at: it slides forward, and grows only to hold one element."""

    def __init__(self, path: pathlib.Path, file: BinaryIO) -> None:
        self.path = str(path)
        self.file = file
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text = ""
        self.at = 0
        self.counted = 0
        self.line = 1

    def where(self) -> Place:
        """The place of what comes next."""
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return Place(self.path, self.line)

    def peek(self) -> str:
        """The next character that is not blank, or nothing at the end of the file."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in BLANK:
                    return self.text[self.at]
                self.at += 1
            if not self.more():
                return ""

    def take(self) -> None:
        """Step over one character."""
        self.at += 1

    def more(self) -> bool:
        """Drop what was read and add at least as much as is left; says whether there was any."""
        where = self.where()
        self.text, self.at, self.counted = self.text[self.at :], 0, 0
        if len(self.text) > places.MAX_ROW_BYTES:
            raise too_long(where)
        chunk = self.file.read(max(CHUNK, len(self.text)))
        if b"\0" in chunk:
            line = where.number + self.text.count("\n") + chunk[: chunk.index(0)].count(b"\n")
            raise DataError(f"{self.path}:{line}: NUL byte; the file is damaged, or not UTF-8: save it as UTF-8")
        try:
            self.text += self.decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line = where.number + self.text.count("\n") + error.object[: error.start].count(b"\n")
            raise DataError(f"{self.path}:{line}: not UTF-8; re-save the file as UTF-8") from None
        return bool(chunk)

    def element(self) -> dict[str, Any]:
        """The object that begins here; raises `DataError` if it is broken, too long or no object."""
        where, first = self.where(), self.peek()
        if first != "{":
            name = "number" if first.isdecimal() or first == "-" else TYPES.get(first)
            raise DataError(f"{where}: " + (f"a row must be an object, not {name}" if name else "broken JSON"))
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
                break
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self.text) - NEAR_THE_END or error.msg.startswith("Unterminated string")
                offset = error.pos - self.at
                if not (cut and self.more()):
                    raise self.broken(self.at + offset, error.msg) from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: broken JSON: {reason(error)}") from None
        if SURROGATE.search(self.text, self.at, end):
            check_encodes(value, where=where)
        self.at = end
        return dict(value)

    def broken(self, position: int, problem: str) -> DataError:
        """The refusal of broken JSON, at its own line rather than where the element begins."""
        position = min(position, len(self.text))
        line = self.where().number + self.text.count("\n", self.at, position)
        column = position - self.text.rfind("\n", 0, position)
        return DataError(f"{self.path}:{line}: broken JSON at column {column}: {problem}")
