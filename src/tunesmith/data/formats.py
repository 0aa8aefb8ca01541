"""The shapes a row may have, and the checks that a row has one of them."""

from typing import Any

from tunesmith.errors import DataError
from tunesmith.records import Row

ROLES = ("system", "user", "assistant")


def check_row(row: Row, *, where: str) -> None:
    """Raise `DataError` at `where` unless the row has an id and a group."""
    for key in ("id", "group"):
        if not isinstance(row.get(key), str) or not row[key]:
            raise DataError(f"{where}: {key}: every row needs a non-empty text here")


def check_conversation(row: Row, *, where: str) -> None:
    """Raise `DataError` at `where` unless `messages` alternates turns and ends with the assistant's."""
    messages = row.get("messages")
    if not isinstance(messages, list) or len(messages) < 2:
        raise DataError(f"{where}: messages: a list of at least a user and an assistant turn is needed")
    turns = [check_message(message, where=f"{where}: messages[{n}]") for n, message in enumerate(messages)]
    turns = turns[1:] if turns[0] == "system" else turns
    expected = ["user", "assistant"] * (len(turns) // 2)
    if turns != expected or not turns:
        raise DataError(f"{where}: messages: turns must alternate user, assistant and end with assistant")


def check_message(message: Any, *, where: str) -> str:
    """Return the role of a chat message; raises `DataError` at `where` if it is not one."""
    if not isinstance(message, dict):
        raise DataError(f"{where}: must be an object with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise DataError(f"{where}.role: must be one of {', '.join(ROLES)}")
    if not isinstance(content, str) or not content.strip():
        raise DataError(f"{where}.content: must be a non-empty text")
    return str(role)


def check_question(row: Row, *, where: str) -> None:
    """Raise `DataError` at `where` unless the row is a multiple-choice question."""
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(row.get("question"), str):
        raise DataError(f"{where}: question: must be a text")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) for c in choices):
        raise DataError(f"{where}: choices: a list of at least two texts is needed")
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise DataError(f"{where}: answer: must be the index of the right choice, 0 to {len(choices) - 1}")


def user_text(row: Row) -> str:
    """What the user says in a conversation, normalised for comparison: case and spacing do not count."""
    turns = [message["content"] for message in row["messages"] if message["role"] == "user"]
    return " ".join(" ".join(turns).lower().split())
