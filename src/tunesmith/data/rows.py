"""Canonical rows as a stream: one shape whatever the source, with id, group and provenance."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tunesmith.data.conversion import FORMATS, Fields, convert_row, detect
from tunesmith.data.digest import canonical, sha256
from tunesmith.data.formats import check_row, user_text
from tunesmith.data.readers.place import Place
from tunesmith.data.sources import Source, read_source
from tunesmith.errors import DataError
from tunesmith.records import Row

Check = Callable[..., None]

ID_LENGTH = 20  # hex digits, 80 bits: a million rows collide with probability 4e-13
CONTENT = ("messages", "prompt", "completion", "chosen", "rejected", "label", "question", "choices", "answer")


def stream_rows(
    source: Source, check: Check | None = None, *, format: str = "auto", group_by: str = "group"
) -> Iterator[Row]:
    """Yield canonical rows one at a time; memory does not grow with the source.

    `check` is called with each row and `where=`. The format of the first row is that of all, unless
    `format` names one. Each row has

    - `id`: its own, else `content_id`, equal for rows of a group that say the same;
    - `group`: its field `group_by`; without a `group`, a hash of its normalised user turns, so that
      equal prompts never fall into different splits;
    - `provenance`: the file and line (or row) it was read from, unless it already has one.

    Raises `DataError` naming file, line and key of the first row that is not as it should be.
    Ids are not compared with each other here: see `distinct`.
    """
    for _, row in placed_rows(source, check, format=format, group_by=group_by):
        yield row


def placed_rows(
    source: Source, check: Check | None = None, *, format: str = "auto", group_by: str = "group"
) -> Iterator[tuple[Place, Row]]:
    """`stream_rows`, each row with its place for messages."""
    known = FORMATS[format] if format != "auto" else None
    for where, row in read_source(source):
        known = known or detect(row, where=where)
        fields = convert_row(row, known, where=where, named=format != "auto")
        fields["group"] = _group(fields, group_by, where)
        given = _name(fields, "id")
        fields["id"] = content_id(fields) if given is None else given
        check_row(fields, where=where)
        if check is not None:
            check(fields, where=where)
        fields.setdefault("provenance", {"file": where.file, where.unit: where.number})
        yield where, fields


def _group(row: Fields, group_by: str, where: Place) -> Any:
    group = _name(row, group_by)
    if group is None:
        if group_by != "group":
            raise DataError(f"{where}: {group_by}: is missing; data.split.by says that rows are grouped by it")
        text = user_text(row)
        return f"prompt-{sha256(text or canonical(content(row)))[:ID_LENGTH]}"
    if group_by != "group" and not (isinstance(group, str) and group):
        raise DataError(f"{where}: {group_by}: every row needs a non-empty text here")
    return group


def _name(row: Fields, key: str) -> Any:
    """The value of a key that names; a whole number is taken as text, and all else left for `check_row`."""
    value = row.get(key)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def content_id(row: Row) -> str:
    """An id from what a row says and its group, not from other metadata or its place: 80 bits of SHA-256, in hex.

    The group is in it so that rows with one id never belong to two splits.
    """
    return sha256(canonical({**content(row), "group": row["group"]}))[:ID_LENGTH]


def content(row: Row) -> Fields:
    """The fields that a row is trained or scored on; plain text only where there are no others."""
    said = {key: row[key] for key in CONTENT if key in row}
    return said or {key: row[key] for key in ("text",) if key in row}


def distinct(rows: Iterable[tuple[Place, Row]]) -> Iterator[tuple[Place, Row]]:
    """Pass rows on with ids that are all different.

    A given id that occurs twice raises `DataError` naming both lines. Rows without a given id that
    say the same get `ID~2`, `ID~3` and so on. Keeps 16 bytes of digest a row, and nothing else.
    """
    seen: dict[bytes, int] = {}
    repeats: dict[str, int] = {}
    for where, row in rows:
        key = bytes.fromhex(sha256(row["id"])[:32])
        if key not in seen:
            seen[key] = where.number
            yield where, row
            continue
        if row["id"] != content_id(row):
            raise DataError(f"{where}: id: already used on {where.unit} {seen[key]}; ids must be unique")
        repeats[row["id"]] = repeats.get(row["id"], 1) + 1
        yield where, {**row, "id": f"{row['id']}~{repeats[row['id']]}"}
