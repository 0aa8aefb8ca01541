"""Curation: keep the rows that pass, and write down what happened to each of the others.

The ledger beside the kept rows has one line for each row that was dropped or edited, with the row as it
was, so `restore` can undo it all. It holds whatever made a row fail, private values too: treat it as
you treat the raw data.
"""

import json
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith import manifest
from tunesmith.audit.checks import Told, all_checks, limit_of, quiet
from tunesmith.audit.material import Material
from tunesmith.audit.result import Action, Check
from tunesmith.data.digest import digest_rows
from tunesmith.data.readers.lines import read_jsonl
from tunesmith.errors import DataError
from tunesmith.records import Row

MOST_PASSES = 20


@dataclass
class Fate:
    """What curation did to one row, and why."""

    row: Row
    reasons: list[str] = field(default_factory=list)
    dropped: bool = False


@dataclass(frozen=True)
class Curated:
    """The rows that are left, and the fate of every row that was dropped or edited, by its place in the source."""

    source: tuple[Row, ...]
    kept: tuple[Row, ...]
    fates: Mapping[int, Fate]
    passes: int

    def counts(self) -> dict[str, int]:
        """How many rows each check was the first to drop, or to edit."""
        return dict(
            Counter(
                f"{'drop' if fate.dropped else 'edit'}: {fate.reasons[-1].partition(':')[0]}"
                for fate in self.fates.values()
            )
        )


def curate(material: Material, *, told: Told = quiet) -> Curated:
    """Edit what can be mended and drop what cannot, until no check finds anything more.

    Each check sees what the one before it has left. Going on until nothing changes makes curation
    idempotent: the last pass has shown that the kept rows are left as they are.
    """
    source = material.rows
    places = list(range(len(source)))
    fates: dict[int, Fate] = {}
    for number in range(1, MOST_PASSES + 1):
        before = len(fates), sum(len(fate.reasons) for fate in fates.values())
        for check in all_checks(material):
            if curates(check, material):
                told(f"pass {number}: {check.name}")
                material, places = apply(check, material, places, fates)
        if (len(fates), sum(len(fate.reasons) for fate in fates.values())) == before:
            return Curated(source, material.rows, fates, number)
    raise DataError(f"curation does not settle within {MOST_PASSES} passes; loosen data.audit")


def curates(check: Check, material: Material) -> bool:
    """Whether a check drops or edits rows; one whose limit is 1 lets everything pass, here too."""
    allowed = limit_of(material.limits, check.limit) if check.limit else 0.0
    return check.action is not Action.NONE and allowed < 1.0


def apply(check: Check, material: Material, places: list[int], fates: dict[int, Fate]) -> tuple[Material, list[int]]:
    """Do with the rows that a check caught what it says; returns what is left and where each row came from."""
    result = check.find(material)
    caught = result.rows
    within = check.guess and check.limit is not None and result.share <= limit_of(material.limits, check.limit)
    if not caught or within:
        return material, places
    rows, splits, left = [], [], []
    for n, (row, split, place) in enumerate(zip(material.rows, material.splits, places, strict=True)):
        now: Row | None = row
        if n in caught:
            fate = fates.setdefault(place, Fate(row))
            fate.reasons.append(f"{check.name}: {caught[n]}")
            now = check.edit(row, material) if check.edit else None
            fate.dropped = now is None
        if now is not None:
            rows.append(now)
            splits.append(split)
            left.append(place)
    return material.keep(rows, splits), left


def ledger_lines(curated: Curated) -> Iterator[dict[str, Any]]:
    """The ledger: first what it belongs to, then a line for each dropped or edited row, in the source's order."""
    yield {
        "ledger": 1,
        "source_sha256": digest_rows(curated.source),
        "kept_sha256": digest_rows(curated.kept),
        "source_rows": len(curated.source),
        "kept_rows": len(curated.kept),
    }
    for place, fate in sorted(curated.fates.items()):
        action = "drop" if fate.dropped else "edit"
        yield {"place": place, "id": fate.row["id"], "action": action, "reasons": fate.reasons, "row": fate.row}


def write_curated(curated: Curated, out: pathlib.Path) -> pathlib.Path:
    """Write the kept rows to `out` and the ledger beside it, each whole or not at all; returns the ledger's path.

    The ledger comes first: rows without their ledger could not be restored.
    """
    ledger = out.with_suffix(".ledger.jsonl")
    write_jsonl(ledger, ledger_lines(curated))
    write_jsonl(out, curated.kept)
    return ledger


def write_jsonl(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows whole or not at all; raises `DataError` when the folder cannot be written to."""
    try:
        with manifest.writing_file(path) as aside, aside.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None


def restore(kept: pathlib.Path, ledger: pathlib.Path, out: pathlib.Path) -> int:
    """Write the rows as they were before curation to `out`; returns their number.

    Raises `DataError` when the kept rows or the ledger were changed since.
    """
    header, *entries = (line for _, line in read_jsonl(ledger))
    if header.get("ledger") != 1:
        raise DataError(f"{ledger}:1: is not the head of a ledger of curation")
    rows = [row for _, row in read_jsonl(kept)]
    if digest_rows(rows) != header["kept_sha256"]:
        raise DataError(f"{kept}: is not what the ledger {ledger} was written for; it was changed since")
    restored = put_back(rows, entries, header["source_rows"], where=str(ledger))
    if digest_rows(restored) != header["source_sha256"]:
        raise DataError(f"{ledger}: does not give the rows back that were curated; it was changed since")
    write_jsonl(out, restored)
    return len(restored)


def put_back(kept: Sequence[Row], entries: Sequence[Row], count: int, *, where: str) -> list[Row]:
    """The `count` rows of the source: dropped and edited ones from the ledger, the others from the kept rows."""
    fates = {entry["place"]: entry for entry in entries}
    rest = iter(kept)
    rows: list[Row] = []
    try:
        for place in range(count):
            entry = fates.get(place)
            if entry is None or entry["action"] == "edit":
                row = next(rest)
            rows.append(row if entry is None else entry["row"])
    except StopIteration:
        raise DataError(f"{where}: names fewer rows than are missing") from None
    return rows
