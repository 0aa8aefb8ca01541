"""Rows out to annotators, and their judgements back in as rows."""

import json
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.data.digest import digest_rows
from tunesmith.data.formats import check_conversation, check_preference
from tunesmith.data.labels import label_studio, prodigy
from tunesmith.data.labels.returned import Returned
from tunesmith.data.labels.selection import ranked, uncertainty
from tunesmith.data.labels.task import judged_row
from tunesmith.data.labels.verdicts import Verdict, agreement, decide, latest
from tunesmith.data.split import split_of
from tunesmith.data.versions import DataReference
from tunesmith.errors import DataError
from tunesmith.manifest import sha256_file, writing_file
from tunesmith.records import Row

READERS: Mapping[str, Callable[[pathlib.Path], Returned]] = {
    "label-studio": label_studio.read_label_studio,
    "prodigy": prodigy.read_prodigy,
}


@dataclass(frozen=True)
class Choice:
    """Which rows go out: how many, from which split, ranked by what, as pairs or as conversations."""

    count: int = 50
    pairwise: bool = False
    split: str = "train"
    scores: Mapping[str, float] | None = None
    near: float | None = None


def export_labels(reference: DataReference, choice: Choice, *, tool: str, out: pathlib.Path) -> tuple[Row, ...]:
    """Write the chosen rows as tasks to `out`; for Label Studio also its configuration, beside it.

    Returns the rows. Raises `DataError` when there is none to label.
    """
    rows = chosen_rows(reference, choice)
    if tool == "label-studio":
        with writing_file(config_path(out)) as aside:
            aside.write_text(label_studio.config(pairwise=choice.pairwise), encoding="utf-8")
        text = json.dumps(label_studio.tasks(rows), ensure_ascii=False, indent=1) + "\n"
    else:
        text = "".join(json.dumps(task, ensure_ascii=False) + "\n" for task in prodigy.tasks(rows))
    with writing_file(out) as aside:
        aside.write_text(text, encoding="utf-8")
    return rows


def config_path(out: pathlib.Path) -> pathlib.Path:
    """Where the labelling configuration for the tasks in `out` goes."""
    return out.with_suffix(".config.xml")


def chosen_rows(reference: DataReference, choice: Choice) -> tuple[Row, ...]:
    """The rows that `choice` picks, most doubtful first."""
    check = check_preference if choice.pairwise else check_conversation
    shares = reference.split.shares() if reference.split and choice.split != "all" else {}
    rows = (r for r in reference.rows(check=check) if not shares or split_of(r["group"], shares) == choice.split)
    if choice.scores is None:
        kept = list(rows)
        best = ranked(kept, uncertainty(kept), count=choice.count)
    else:
        best = ranked(rows, choice.scores, count=choice.count, near=choice.near)
    if not best:
        part = f" in {choice.split}" if shares else ""
        ranking = "; no id in --scores is among them" if choice.scores is not None else ""
        raise DataError(f"{reference.source}: no row{part} to label{ranking}")
    return tuple(best)


@dataclass(frozen=True)
class Labelled:
    """The outcome of an import.

    `counts` reconcile: exported = returned + missing; annotations = judged + cancelled + skipped + empty +
    unfinished; judged = counted + superseded; the rows with a judgement = written + dropped + tied + conflicts.
    `alpha` is Krippendorff's, or None where it is undefined. `digest` is the root over `rows`.
    """

    rows: tuple[Row, ...]
    digest: str
    counts: Mapping[str, int]
    conflicts: tuple[Verdict, ...]
    alpha: float | None


def import_labels(path: pathlib.Path, *, tool: str, out: pathlib.Path) -> Labelled:
    """Make rows of an export and write them to `out` as JSONL, whole or not at all.

    Reads `path` and nothing else, and opens no connection. Each row has a record `labels` of the
    verdict, the number of annotators, and the SHA-256 of the row as it went out and of the export.
    Raises `DataError` naming line and key of what cannot be used.
    """
    if out.resolve() == path.resolve():
        raise DataError(f"{out}: --out is the export itself; name another file")
    returned = READERS[tool](path)
    by_row = latest(returned.judgements)
    verdicts = [decide(by_row[key]) for key in returned.rows if key in by_row]
    record = {"tool": tool, "export_sha256": sha256_file(path)}
    rows = tuple(
        judged_row(returned.rows[v.row_id], v.verdict, v.rewrite, record={**record, "annotators": v.annotators})
        for v in verdicts
        if v.verdict not in {"", "drop", "tie"}
    )
    with writing_file(out) as aside, aside.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    counted = sum(map(len, by_row.values()))
    conflicts = tuple(verdict for verdict in verdicts if verdict.conflict)
    counts = _reconciled(returned, verdicts, counted=counted, written=len(rows))
    return Labelled(rows, digest_rows(rows), counts, conflicts, agreement(by_row))


def _reconciled(returned: Returned, verdicts: list[Verdict], *, counted: int, written: int) -> dict[str, Any]:
    """The counts of `Labelled`, in the order in which they are told."""
    told = returned.counts
    kinds = ("judged", "cancelled", "skipped", "empty", "unfinished")
    return {
        "exported": max(returned.batch_size, len(returned.rows)),
        "returned": len(returned.rows),
        "missing": max(0, returned.batch_size - len(returned.rows)),
        "unannotated": told["unannotated"],
        "annotations": sum(told[kind] for kind in kinds),
        **{kind: told[kind] for kind in kinds},
        "superseded": told["judged"] - counted,
        "annotated_rows": len(verdicts),
        "dropped": sum(verdict.verdict == "drop" for verdict in verdicts),
        "tied": sum(verdict.verdict == "tie" for verdict in verdicts),
        "conflicts": sum(bool(verdict.conflict) for verdict in verdicts),
        "written": written,
    }
