"""Prodigy: tasks for its `choice` interface out, its JSONL (`db-out`) in.

Prodigy is sold, not published: the format follows its documentation and was not tried against it.
A rewrite is read from `rewrite` or `user_input`, the fields of a `text_input` block beside the choice.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.labels.returned import Returned
from tunesmith.data.labels.task import Judgement, answer_text, carried, dialogue, exported_row, is_pair, opened
from tunesmith.data.readers.lines import read_jsonl
from tunesmith.errors import DataError
from tunesmith.records import Row

CONVERSATION_OPTIONS = (
    {"id": "keep", "text": "Keep it"},
    {"id": "fix", "text": "Fix it (rewrite)"},
    {"id": "drop", "text": "Drop the row"},
)


def tasks(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Tasks for the `choice` interface, one object a line."""
    return [_task(row, len(rows)) for row in rows]


def _task(row: Row, batch: int) -> dict[str, Any]:
    exported = exported_row(row)
    text = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in dialogue(exported))
    options: Sequence[Mapping[str, str]] = CONVERSATION_OPTIONS
    if is_pair(exported):
        first, second = (answer_text(turns) for turns in exported["answers"])
        neither = {"id": "tie", "text": "Neither is better"}
        options = [{"id": "a", "text": first}, {"id": "b", "text": second}, neither]
    return {"text": text, "options": list(options), **carried(row, batch=batch), "meta": {"row": row["id"]}}


def read_prodigy(path: pathlib.Path) -> Returned:
    """Read annotated tasks; `ignore` is a skip, and `reject` drops a conversation but says nothing of a pair.

    Raises `DataError` naming file, line and key of the first task that did not come from `labels export`.
    """
    found = Returned()
    for place, task in read_jsonl(path):
        where = str(place)
        row = opened(task, where=where)
        found.task(row, task.get("batch_size"), where=where)
        answer = task.get("answer")
        if answer is None:
            found.counts["unannotated"] += 1
        elif answer == "ignore" or (answer == "reject" and is_pair(row)):
            found.counts["skipped"] += 1
        elif answer in {"accept", "reject"}:
            found.annotation(_judgement(task, row, where=where), where=where)
        else:
            raise DataError(f"{where}: answer: must be accept, reject or ignore")
    return found


def _judgement(task: Mapping[str, Any], row: Row, *, where: str) -> Judgement:
    chosen = task.get("accept") or []
    if not isinstance(chosen, list) or len(chosen) > 1 or not all(isinstance(option, str) for option in chosen):
        raise DataError(f"{where}: accept: at most one option is expected")
    rewrite = task.get("rewrite") or task.get("user_input") or ""
    if not isinstance(rewrite, str):
        raise DataError(f"{where}: rewrite: must be a text")
    annotator = task.get("_annotator_id") or task.get("_session_id") or "annotator"
    moment = task.get("_timestamp")
    when = f"{moment:020.3f}" if isinstance(moment, int | float) else ""
    verdict = "drop" if task["answer"] == "reject" else next(iter(chosen), "")
    return Judgement(row["id"], str(annotator), verdict, rewrite=rewrite, when=when)
