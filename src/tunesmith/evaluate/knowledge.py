"""What replies may state: the passages of a knowledge file, the figures in a text, and the search for evidence."""

import functools
import pathlib
import re
import sqlite3
from collections.abc import Sequence

import yaml

from tunesmith.errors import DataError

FIGURE = re.compile(r"\d+(?:[.,]\d+)*(?:-\d+)*|\b[A-Z]-\d+\b")
WORDS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
NUMBER_WORD = re.compile(rf"\b({'|'.join(WORDS)})\b", re.IGNORECASE)
TOKEN = re.compile(r"[a-z0-9]+")


def figures(text: str) -> frozenset[str]:
    """The numbers, amounts, telephone numbers and names of forms that a text states, without unit or currency.

    Number words from two to twelve count as numbers; `one` does not, since it is rarely a number.
    """
    spelled = NUMBER_WORD.sub(lambda match: str(WORDS.index(match.group().lower()) + 2), text)
    return frozenset(figure.replace(",", "").removesuffix(".0") for figure in FIGURE.findall(spelled))


@functools.lru_cache(maxsize=8)
def read_passages(path: pathlib.Path) -> tuple[str, ...]:
    """The passages of a knowledge file: the entries of a YAML list, or the paragraphs of a text.

    Of an entry that is a mapping, `title` and `text` count, or all its texts where it has neither.
    Raises `DataError` naming the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(f"{path}: cannot be read ({reason}); check the task's knowledge") from None
    if path.suffix in {".yaml", ".yml"}:
        passages = _entries(path, text)
    else:
        passages = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)]
    passages = [passage for passage in passages if passage]
    if not passages:
        raise DataError(f"{path}: holds no passages; check the task's knowledge")
    return tuple(passages)


def _entries(path: pathlib.Path, text: str) -> list[str]:
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(entries, list):
        raise DataError(f"{path}: must be a list of entries, or a text in paragraphs")
    passages = []
    for entry in entries:
        parts = entry if isinstance(entry, dict) else {"text": entry}
        chosen = [parts[key] for key in ("title", "text") if key in parts] or list(parts.values())
        passages.append(". ".join(part for part in chosen if isinstance(part, str)))
    return passages


class Evidence:
    """The passages of a knowledge file, found by BM25 (Robertson and Zaragoza, 2009) as SQLite's FTS5 computes it.

    Words are stemmed (Porter, 1980). FTS5 fixes k1 = 1.2 and b = 0.75.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        self.passages = tuple(passages)
        self.index = sqlite3.connect(":memory:")
        self.index.execute("CREATE VIRTUAL TABLE passages USING fts5(text, tokenize='porter unicode61')")
        self.index.executemany("INSERT INTO passages (text) VALUES (?)", [(passage,) for passage in self.passages])

    def search(self, query: str, *, count: int) -> list[str]:
        """The `count` best passages for a query, best first; fewer when fewer share a word with it."""
        words = sorted(set(TOKEN.findall(query.lower())))
        if not words:
            return []
        wanted = " OR ".join(f'"{word}"' for word in words)
        found = self.index.execute(
            "SELECT text FROM passages WHERE passages MATCH ? ORDER BY bm25(passages), rowid LIMIT ?", (wanted, count)
        )
        return [text for (text,) in found]
