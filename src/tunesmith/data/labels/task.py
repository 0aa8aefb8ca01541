"""What a labelling task carries, so that its export alone is enough to make rows again.

A conversation is judged `keep`, `fix` (with a rewrite) or `drop`. A preference pair is shown as answers
A and B, in an order that depends on its id alone and does not tell which was chosen before; it is
judged `a`, `b` or `tie`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.data.digest import UNVERSIONED, digest_of, row_digest, sha256
from tunesmith.errors import DataError
from tunesmith.records import Row

VERDICTS = ("keep", "fix", "drop")
PREFERENCES = ("a", "b", "tie")


@dataclass(frozen=True)
class Judgement:
    """What one annotator said of one row.

    Of several by one annotator the one with the greatest `when` (an ISO time) counts. A `decisive` one,
    marked as ground truth, overrules all that are not.
    """

    row_id: str
    annotator: str
    verdict: str
    rewrite: str = ""
    when: str = ""
    decisive: bool = False


def exported_row(row: Row) -> Row:
    """The row as a task shows it: of a preference pair, `answers` in place of `chosen` and `rejected`."""
    if "chosen" not in row:
        return {key: value for key, value in row.items() if key != UNVERSIONED}
    answers = [row["chosen"], row["rejected"]]
    swap = int(sha256(f"order of {row['id']}")[0], 16) % 2
    rest = {key: value for key, value in row.items() if key not in {"chosen", "rejected", UNVERSIONED}}
    return {**rest, "answers": answers[::-1] if swap else answers}


def carried(row: Row, *, batch: int) -> dict[str, Any]:
    """The fields by which an importer finds the row again and sees that nobody changed it."""
    exported = exported_row(row)
    return {"row_id": row["id"], "row": exported, "row_sha256": digest_of(exported), "batch_size": batch}


def opened(data: Mapping[str, Any], *, where: str) -> Row:
    """The row that a task carried; raises `DataError` at `where` unless it is there and unchanged.

    A path or link in its place is refused, not followed: an import reads its one file and nothing else.
    """
    row = data.get("row")
    if not isinstance(row, dict):
        problem = "is a text; paths and links are never followed" if isinstance(row, str) else "is missing"
        raise DataError(f"{where}: row: {problem}; import tasks that `labels export` wrote")
    if digest_of(row) != data.get("row_sha256"):
        raise DataError(f"{where}: row: was changed after the export; its SHA-256 is not row_sha256")
    if not isinstance(row.get("id"), str) or not isinstance(row.get("group"), str) or row["id"] != data.get("row_id"):
        raise DataError(f"{where}: row: has no id and group, or another id than row_id")
    return row


def is_pair(row: Row) -> bool:
    """Whether an exported row is a preference pair."""
    return "answers" in row


def dialogue(row: Row) -> list[dict[str, str]]:
    """The turns that an annotator reads before judging: the conversation, or the prompt of a pair."""
    turns = row["prompt"] if is_pair(row) else row["messages"]
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def answer_text(turns: list[Mapping[str, Any]]) -> str:
    """An answer to show: its text, or its turns with their roles when it has several."""
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def judged_row(row: Row, verdict: str, rewrite: str, *, record: Mapping[str, Any]) -> Row:
    """The row that a verdict other than `drop` and `tie` makes of an exported row, with a record of the labelling."""
    labels = {"verdict": verdict, "row_sha256": row_digest(row).hex(), **record}
    if is_pair(row):
        first, second = row["answers"]
        chosen, rejected = (first, second) if verdict == "a" else (second, first)
        rest = {key: value for key, value in row.items() if key != "answers"}
        return {**rest, "chosen": chosen, "rejected": rejected, "labels": labels}
    messages = row["messages"]
    if verdict == "fix":
        messages = [*messages[:-1], {**messages[-1], "content": rewrite}]
    return {**row, "messages": messages, "labels": labels}
