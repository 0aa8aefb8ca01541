"""The shapes a row may have, and the checks that a row has one of them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from tunesmith.errors import DataError
from tunesmith.records import Row

ROLES = ("system", "user", "assistant")


def check_row(row: Row, *, where: object) -> None:
    """Raise `DataError` at `where` unless the row has an id and a group."""
    for key in ("id", "group"):
        if not isinstance(row.get(key), str) or not row[key]:
            raise DataError(f"{where}: {key}: every row needs a non-empty text here")


def check_conversation(row: Row, *, where: object) -> None:
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


def check_question(row: Row, *, where: object) -> None:
    """Raise `DataError` at `where` unless the row is a multiple-choice question."""
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(row.get("question"), str):
        raise DataError(f"{where}: question: must be a text")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) for c in choices):
        raise DataError(f"{where}: choices: a list of at least two texts is needed")
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise DataError(f"{where}: answer: must be the index of the right choice, 0 to {len(choices) - 1}")


def check_text(row: Row, *, where: object) -> None:
    """Raise `DataError` at `where` unless the row is plain text."""
    if not isinstance(row.get("text"), str) or not row["text"].strip():
        raise DataError(f"{where}: text: must be a non-empty text")


def check_attack(row: Row, *, where: object) -> None:
    """Raise `DataError` at `where` unless the row is a message with what a right reply does.

    `messages` ends with the user's turn; `class` names the kind of attack; and at least one of these says what is
    right: `refuse` (true), `forbid` (texts that no reply may hold), `desks` (answers of which one must be given),
    `twin` (the same message, undamaged, which must get the same answer).
    """
    if check_turns(row.get("messages"), where=f"{where}: messages")[-1] != "user":
        raise DataError(f"{where}: messages: must end with the user's turn")
    if not isinstance(row.get("class"), str) or not row["class"].isidentifier():
        raise DataError(f"{where}: class: must be a word of letters, digits and _")
    for key in ("forbid", "desks"):
        texts = row.get(key, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
            raise DataError(f"{where}: {key}: must be a list of texts")
    if not isinstance(row.get("twin", ""), str) or (row.get("twin") and len(row.get("desks", [])) != 1):
        raise DataError(f"{where}: twin: must be a text, beside one right answer in desks")
    if not any(row.get(key) for key in ("refuse", "forbid", "desks")):
        raise DataError(f"{where}: says of no reply that it is right; give refuse, forbid or desks")


def check_canary(row: Row, *, where: object) -> None:
    """Raise `DataError` at `where` unless the row is a conversation whose last reply holds its `secret`."""
    check_conversation(row, where=where)
    secret = row.get("secret")
    if not isinstance(secret, str) or not any(map(str.isalnum, secret)):
        raise DataError(f"{where}: secret: must be a text of letters and digits")
    if secret not in row["messages"][-1]["content"]:
        raise DataError(f"{where}: secret: does not occur in the last reply")


def check_preference(row: Row, *, where: object) -> None:
    """Raise `DataError` at `where` unless the row is a preference pair: prompt, chosen, rejected."""
    check_prompt(row, where=where)
    for key in ("chosen", "rejected"):
        check_answer(row.get(key), where=f"{where}: {key}")


def check_kto(row: Row, *, where: object) -> None:
    """Raise `DataError` at `where` unless the row is a prompt, a completion and whether it is wanted."""
    check_prompt(row, where=where)
    check_answer(row.get("completion"), where=f"{where}: completion")
    if not isinstance(row.get("label"), bool):
        raise DataError(f"{where}: label: must be true or false")


def check_prompt(row: Row, *, where: object) -> None:
    """Raise `DataError` at `where` unless `prompt` is messages that end with the user's."""
    if check_turns(row.get("prompt"), where=f"{where}: prompt")[-1] != "user":
        raise DataError(f"{where}: prompt: must end with the user's turn")


def check_answer(turns: Any, *, where: str) -> None:
    """Raise `DataError` at `where` unless `turns` are messages of which the last is the assistant's."""
    if check_turns(turns, where=where)[-1] != "assistant":
        raise DataError(f"{where}: must end with the assistant's turn")


def check_turns(turns: Any, *, where: str) -> list[str]:
    """Return the roles of a list of messages; raises `DataError` at `where` if it is not one."""
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where}: a list of messages is needed")
    return [check_message(message, where=f"{where}[{n}]") for n, message in enumerate(turns)]


def user_text(row: Row) -> str:
    """What the user says in a row, normalised for comparison: case and spacing do not count.

    Of a preference pair or KTO row that is the prompt, of a multiple-choice row the question. Turns
    without a role or text count for nothing, so that rows can be compared before they are checked.
    """
    turns = row.get("messages") or row.get("prompt") or [{"role": "user", "content": row.get("question", "")}]
    said = [turn.get("content") for turn in turns if isinstance(turn, Mapping) and turn.get("role") == "user"]
    return " ".join(" ".join(text for text in said if isinstance(text, str)).lower().split())


def check_prompted(row: Row, *, where: object) -> None:
    """Raise `DataError` at `where` unless the row asks for a reply: a conversation, or a row with a prompt."""
    if "prompt" in row:
        check_prompt(row, where=where)
    else:
        check_conversation(row, where=where)


def check_wanted(row: Row, *, where: object) -> None:
    """Raise `DataError` at `where` unless the row says which reply is wanted: a KTO row, or a preference pair."""
    if "chosen" in row:
        check_pair(row, where=where)
    else:
        check_kto(row, where=where)


def check_pair(row: Row, *, where: object) -> None:
    """Raise `DataError` at `where` unless the row is a preference pair of two different replies."""
    check_preference(row, where=where)
    if row["chosen"] == row["rejected"]:
        raise DataError(f"{where}: chosen and rejected are equal; drop the row, it prefers nothing")


SHAPES = {"messages": "a conversation", "chosen": "a preference pair", "label": "a KTO row", "question": "a question"}
"""What a canonical row is, by the key that shows it."""
ROWS_OF_METHOD: Mapping[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "sft": (check_conversation, ("messages",)),
    "dpo": (check_pair, ("chosen",)),
    "kto": (check_wanted, ("label", "chosen")),
    "reward": (check_pair, ("chosen",)),
    "rlhf": (check_prompted, ("messages", "chosen", "label")),
}
"""The rows that a method trains on: their check, and the keys of the shapes that it takes."""


@functools.cache
def check_for(method: str) -> Callable[..., None]:
    """The check of the rows of a method, which says what to do where the shape is another one's."""
    check, keys = ROWS_OF_METHOD[method]

    def checked(row: Row, *, where: object) -> None:
        shape = next((key for key in SHAPES if key in row), None)
        if shape is not None and shape not in keys:
            wanted = " or ".join(SHAPES[key] for key in keys)
            others = " or ".join(kind for kind, (_, takes) in ROWS_OF_METHOD.items() if shape in takes)
            remedy = f"use method.kind {others}, or other rows" if others else "use other rows"
            raise DataError(f"{where}: is {SHAPES[shape]}, and method {method} trains on {wanted}; {remedy}")
        check(row, where=where)

    return checked


def as_conversation(row: Row) -> Row:
    """A row as a conversation that ends with its reply: the chosen one of a pair, the completion of a KTO row."""
    if "messages" in row or "prompt" not in row:
        return row
    return {**row, "messages": [*row["prompt"], *row.get("chosen", row.get("completion", []))]}


def prompt_of(row: Row) -> list[Any]:
    """The messages that a row asks a reply to: its prompt, or a conversation up to its last reply."""
    return list(row["prompt"] if "prompt" in row else row["messages"][:-1])
