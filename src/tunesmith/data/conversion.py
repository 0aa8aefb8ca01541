"""From the shapes that chat data comes in to the few that the rest works with.

Canonical rows hold `messages` (conversations), `prompt`, `chosen` and `rejected` (preferences), `prompt`,
`completion` and `label` (KTO), each a list of messages, or `question`, `choices` and `answer`, or plain `text`. A
converter is a pure function from a row to the canonical fields that replace `consumes`; all other fields are kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import DataError
from tunesmith.records import Row

Fields = dict[str, Any]
Messages = list[dict[str, Any]]

SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}


@dataclass(frozen=True)
class Format:
    """One shape of rows: the keys that it needs, the keys that its converter replaces, and the converter."""

    name: str
    needs: frozenset[str]
    consumes: frozenset[str]
    convert: Callable[[Row, object], Fields]

    def fits(self, row: Row) -> bool:
        """Whether a row has every key that the format needs."""
        return self.needs <= row.keys()


def messages_row(row: Row, where: object) -> Fields:
    """A conversation, as it is."""
    if not isinstance(row.get("messages"), list):
        raise DataError(f"{where}: messages: a list of at least a user and an assistant turn is needed")
    return {"messages": row["messages"]}


def sharegpt_row(row: Row, where: object) -> Fields:
    """ShareGPT: `conversations` of `from` and `value`, and perhaps a `system` text."""
    turns = row.get("conversations")
    if not isinstance(turns, list):
        raise DataError(f"{where}: conversations: must be a list of objects with from and value")
    messages = [_sharegpt_turn(turn, f"{where}: conversations[{n}]") for n, turn in enumerate(turns)]
    return {"messages": _system(row, where) + messages}


def _sharegpt_turn(turn: Any, where: str) -> dict[str, Any]:
    if isinstance(turn, dict) and "role" in turn and "from" not in turn:
        return turn
    if not isinstance(turn, dict) or "value" not in turn:
        raise DataError(f"{where}: must be an object with from and value")
    role = turn.get("from")
    if not isinstance(role, str) or role not in SHAREGPT_ROLES:
        raise DataError(f"{where}.from: must be one of {', '.join(SHAREGPT_ROLES)}")
    return {"role": SHAREGPT_ROLES[role], "content": turn["value"]}


def alpaca_row(row: Row, where: object) -> Fields:
    """Alpaca: `instruction`, `output`, perhaps `input` (a second paragraph), `system`, earlier turns in `history`."""
    instruction, extra = _text(row, "instruction", where), row.get("input") or ""
    if not isinstance(extra, str):
        raise DataError(f"{where}: input: must be a text")
    messages = _system(row, where)
    history = row.get("history") or []
    for n, pair in enumerate(history if isinstance(history, list) else [None]):
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(f"{where}: history[{n}]: must be a list of an instruction and its output")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    asked = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    answer = {"role": "assistant", "content": _text(row, "output", where)}
    return {"messages": [*messages, {"role": "user", "content": asked}, answer]}


def prompt_completion_row(row: Row, where: object) -> Fields:
    """`prompt` and `completion`, each a text or messages, and perhaps a `system` text."""
    prompt, completion = _turns(row, "prompt", "user", where), _turns(row, "completion", "assistant", where)
    return {"messages": _system(row, where) + prompt + completion}


def kto_row(row: Row, where: object) -> Fields:
    """KTO: `prompt`, `completion`, and whether it is wanted in `label`."""
    if not isinstance(row.get("label"), bool):
        raise DataError(f"{where}: label: must be true or false")
    prompt, completion = _turns(row, "prompt", "user", where), _turns(row, "completion", "assistant", where)
    return {"prompt": _system(row, where) + prompt, "completion": completion, "label": row["label"]}


def preference_row(row: Row, where: object) -> Fields:
    """A preference pair: `chosen` and `rejected`, after `prompt` or as full conversations that begin alike.

    In full conversations the prompt is what both share, as far as that goes, but never the last turn.
    """
    chosen, rejected = (_turns(row, key, "assistant", where) for key in ("chosen", "rejected"))
    if _begins_with_answer(chosen) and _begins_with_answer(rejected):
        if "prompt" not in row:
            raise DataError(f"{where}: prompt: is missing, and chosen and rejected do not begin with a user's turn")
        return {
            "prompt": _system(row, where) + _turns(row, "prompt", "user", where),
            "chosen": chosen,
            "rejected": rejected,
        }
    most = min(len(chosen), len(rejected)) - 1
    shared = next((n for n in range(most) if chosen[n] != rejected[n]), most)
    if shared == 0:
        raise DataError(f"{where}: chosen and rejected: full conversations must begin with the same turns")
    return {
        "prompt": _system(row, where) + chosen[:shared],
        "chosen": chosen[shared:],
        "rejected": rejected[shared:],
    }


def question_row(row: Row, where: object) -> Fields:
    """A multiple-choice question, as it is."""
    return {key: row[key] for key in ("question", "choices", "answer") if key in row}


def text_row(row: Row, where: object) -> Fields:
    """Plain text, as it is."""
    return {"text": _text(row, "text", where)}


def _begins_with_answer(turns: Messages) -> bool:
    return turns[0].get("role") not in {"system", "user"}


def _system(row: Row, where: object) -> Messages:
    return [{"role": "system", "content": _text(row, "system", where)}] if row.get("system") else []


def _text(row: Row, key: str, where: object) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key}: must be a non-empty text")
    return value


def _turns(row: Row, key: str, role: str, where: object) -> Messages:
    value = row.get(key)
    if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
        return list(value)
    if isinstance(value, str) and value.strip():
        return [{"role": role, "content": value}]
    problem = "must be a non-empty text or a list of messages" if key in row else "is missing"
    raise DataError(f"{where}: {key}: {problem}")


def _format(name: str, needs: str, convert: Callable[[Row, object], Fields], more: str = "") -> Format:
    keys = frozenset(needs.split())
    return Format(name, keys, keys | frozenset(more.split()), convert)


FORMATS: Mapping[str, Format] = {
    made.name: made
    for made in (
        _format("preference", "chosen rejected", preference_row, "prompt system"),
        _format("messages", "messages", messages_row),
        _format("sharegpt", "conversations", sharegpt_row, "system"),
        _format("kto", "prompt completion label", kto_row, "system"),
        _format("prompt_completion", "prompt completion", prompt_completion_row, "system"),
        _format("alpaca", "instruction output", alpaca_row, "input system history"),
        _format("questions", "question choices answer", question_row),
        _format("text", "text", text_row),
    )
}
"""By name, in the order in which they are tried: a format stands before those whose keys it contains."""


def fitting(row: Row) -> Format | None:
    """The first format that a row fits."""
    return next((known for known in FORMATS.values() if known.fits(row)), None)


def detect(row: Row, *, where: object) -> Format:
    """The format that a row's keys show; raises `DataError` at `where` if none does.

    A row with only one of `chosen` and `rejected` is a preference pair that lacks the other.
    """
    known = fitting(row)
    if known is not None:
        return known
    if "chosen" in row or "rejected" in row:
        return FORMATS["preference"]
    shapes = "; ".join(f"{name}: {', '.join(sorted(known.needs))}" for name, known in FORMATS.items())
    keys = dict.fromkeys(key for known in FORMATS.values() for key in sorted(known.needs) if key in row)
    lacking = f"only {', '.join(keys)}, which is not enough" if keys else "none of the known keys"
    raise DataError(f"{where}: has {lacking} (needed are {shapes})")


def convert_row(row: Row, known: Format, *, where: object, named: bool = False) -> Fields:
    """A row's canonical fields and all that the format does not consume; raises `DataError` at `where`.

    A row that fits another format is refused as mixed, unless the format was `named` and fits too.
    """
    other = fitting(row)
    if other is not None and other is not known and not (named and known.fits(row)):
        rest = f"data.format is {known.name}" if named else f"the rows before it like {known.name}"
        raise DataError(f"{where}: mixed formats: this row looks like {other.name}, {rest}")
    converted = known.convert(row, where)
    return {key: value for key, value in row.items() if key not in known.consumes} | converted
