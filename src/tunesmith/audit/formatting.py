"""Consistent formatting: turns that alternate, text that is whole, answers of one form."""

import re
from collections.abc import Callable, Mapping

from tunesmith.audit.material import Material, assistant_turns, turns
from tunesmith.audit.result import Action, Check, Result, caught
from tunesmith.data.formats import ROLES
from tunesmith.records import Row, Severity

# text in UTF-8 that was read as Latin-1 or Windows-1252, characters that stand for lost ones, control characters
DAMAGE = re.compile(
    "[ÃÂ][\u0080-\u00bf\u0152-\u2122]|â[€\u0080][\u0080-\u2122]|ï»¿|\ufffd|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)
MARKUP = re.compile(
    r"<\|[a-z_]+\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    r"|^#{2,3} ?(?:Instruction|Response|Input|Human|Assistant|User)\b:?|\{\{ ?\w+ ?\}\}"
    r"|^(?:Human|Assistant|User|ASSISTANT|USER) ?:|</?(?:div|span|p|br|font|table|tr|td)\b[^>]*>",
    re.MULTILINE,
)


def wrong_turns(material: Material) -> Result:
    """Rows with an unknown role, or whose turns do not alternate user, assistant and end with assistant."""
    return _each(material, turn_problem)


def turn_problem(row: Row) -> str:
    """What is wrong with the order of a row's turns; empty if nothing is."""
    roles = [turn.get("role") for turn in turns(row)]
    unknown = [n for n, role in enumerate(roles) if role not in ROLES]
    if unknown:
        return f"turn {unknown[0]} has a role that is none of {', '.join(ROLES)}"
    roles = roles[1:] if roles[0] == "system" else roles
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        return "turns do not alternate user, assistant and end with assistant"
    return ""


def empty_turns(material: Material) -> Result:
    """Rows with a turn that has no text."""
    return _each(material, empty_problem)


def empty_problem(row: Row) -> str:
    """Which turn of a row is empty."""
    for n, turn in enumerate(turns(row)):
        content = turn.get("content")
        if not isinstance(content, str) or not content.strip():
            return f"turn {n} has no text"
    return ""


def damaged_encoding(material: Material) -> Result:
    """Rows with text that was decoded wrongly, or with control characters."""
    return _each(material, lambda row: _match(DAMAGE, row, "has wrongly decoded or control characters"))


def markup(material: Material) -> Result:
    """Rows with markup of a chat template or web page left in the text."""
    return _each(material, lambda row: _match(MARKUP, row, "has template or page markup left in it"))


def repair_encoding(row: Row, material: Material) -> Row | None:
    """The row with text that UTF-8 was misread into turned back; None if damage remains."""
    mended = map_contents(row, undo_misreading)
    return None if _match(DAMAGE, mended, "damage") else mended


def undo_misreading(text: str) -> str:
    """Text as it was before its UTF-8 was read as Windows-1252; unchanged where that is not what happened."""
    if not DAMAGE.search(text):
        return text
    for encoding in ("cp1252", "latin-1"):
        try:
            return text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
    return text


def map_contents(row: Row, change: Callable[[str], str]) -> Row:
    """A copy of a row with the text of every turn changed."""

    def changed(turn: Mapping[str, object]) -> Mapping[str, object]:
        content = turn.get("content")
        return {**turn, "content": change(content)} if isinstance(content, str) else turn

    keys = [key for key in ("messages", "prompt", "chosen", "rejected") if isinstance(row.get(key), list)]
    return {**row, **{key: [changed(turn) for turn in row[key]] for key in keys}}


def inconsistent_answers(material: Material) -> Result:
    """Rows whose last answer lacks the label that the experiment's tasks read, or names another than the row's."""
    if not material.labels:
        return Result({}, skipped="no task of measure `extract` says how an answer must look")
    found: dict[int, str] = {}
    for n, row in enumerate(material.rows):
        problem = label_problem(row, material)
        if problem:
            found[n] = problem
    return caught(found, len(material.rows), "rows")


def label_problem(row: Row, material: Material) -> str:
    """What is wrong with the label in a row's answer."""
    answer = assistant_turns(row)
    for pattern, name in material.labels:
        match = pattern.search(answer)
        if match is None:
            return f"the answer has nothing that matches {pattern.pattern}"
        if name is not None and name in row and match.group(1) != row[name]:
            return f"the label in the answer is not the row's {name}"
    return ""


def _match(pattern: re.Pattern[str], row: Row, problem: str) -> str:
    for n, turn in enumerate(turns(row)):
        content = turn.get("content")
        if isinstance(content, str) and pattern.search(content):
            return f"turn {n} {problem}"
    return ""


def _each(material: Material, problem: Callable[[Row], str]) -> Result:
    found = {n: text for n, row in enumerate(material.rows) if (text := problem(row))}
    return caught(found, len(material.rows), "rows")


CHECKS = (
    Check("turns", "formatting", wrong_turns, limit="max_broken_rate", action=Action.DROP),
    Check("empty turns", "formatting", empty_turns, limit="max_broken_rate", action=Action.DROP),
    Check(
        "encoding",
        "formatting",
        damaged_encoding,
        limit="max_broken_rate",
        action=Action.EDIT,
        edit=repair_encoding,
    ),
    Check("markup", "formatting", markup, limit="max_broken_rate", action=Action.DROP),
    Check(
        "answer format",
        "formatting",
        inconsistent_answers,
        severity=Severity.BLOCK,
        limit="max_inconsistent_rate",
        action=Action.DROP,
    ),
)
