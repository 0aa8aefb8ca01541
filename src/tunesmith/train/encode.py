"""Conversations as tokens, with only the assistant's turns marked for the loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from tunesmith.errors import DataError
from tunesmith.records import Row

IGNORED = -100


class Tokens(Protocol):
    """An encoded row, whatever the method."""

    @property
    def input_ids(self) -> list[int]:
        """All its tokens."""

    @property
    def supervised(self) -> int:
        """How many of them count in the loss."""

    @property
    def truncated(self) -> bool:
        """Whether it was cut."""


class Labelled(Tokens, Protocol):
    """An encoded row whose loss is a function of the log-probabilities of labelled tokens."""

    @property
    def texts(self) -> Sequence["Encoded"]:
        """The texts that the model reads, each with its labels."""


@dataclass(frozen=True)
class Encoded:
    """One row's token ids and labels, both of its length; labels are -100 outside the loss."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool

    @property
    def texts(self) -> tuple["Encoded"]:
        """The row itself."""
        return (self,)

    @property
    def supervised(self) -> int:
        """How many tokens count in the loss (the first token of a row is never predicted)."""
        return sum(label != IGNORED for label in self.labels[1:])


def encode_rows(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> list[Encoded]:
    """Encode conversations; raises `DataError` for a row none of whose reply fits into `max_length`."""
    encoded = [encode_row(row, tokenizer, max_length=max_length) for row in rows]
    for row, tokens in zip(rows, encoded, strict=True):
        if not tokens.supervised:
            raise DataError(f"row {row['id']}: no token of its reply fits into model.max_length {max_length}; raise it")
    return encoded


def encode_row(row: Row, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Encoded:
    """Encode one conversation, cut at its end to `max_length` tokens."""
    text, spans = assistant_spans(row, tokenizer)
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, labels, span = tokens["input_ids"], [], 0
    for token, (start, end) in zip(ids, tokens["offset_mapping"], strict=True):
        while span < len(spans) and start >= spans[span][1]:
            span += 1
        inside = span < len(spans) and start >= spans[span][0] and end <= spans[span][1]
        labels.append(token if inside else IGNORED)
    return Encoded(ids[:max_length], labels[:max_length], truncated=len(ids) > max_length)


def supervised_share(rows: Sequence[Tokens]) -> float:
    """Share of all tokens that count in the loss."""
    return sum(row.supervised for row in rows) / max(1, sum(len(row.input_ids) for row in rows))


def assistant_spans(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[str, list[tuple[int, int]]]:
    """The rendered text, cut after the last reply, and where in it the model itself has to speak.

    A span reaches from the end of the generation prompt to the end mark of the turn. Raises
    `DataError` when the chat template renders a turn differently once others follow it.
    """
    messages = row["messages"]
    text = render(messages, tokenizer)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(messages[:index], tokenizer, generation_prompt=True)
        turn = render(messages[: index + 1], tokenizer)
        if not text.startswith(turn) or not turn.startswith(prompt):
            raise DataError(f"row {row['id']}: the chat template rewrites earlier turns; its loss mask is not defined")
        spans.append((len(prompt), len(prompt) + reply_length(turn[len(prompt) :], tokenizer)))
    return text[: spans[-1][1]], spans


def reply_length(reply: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Length in characters of a rendered reply up to and including its end mark."""
    mark = str(tokenizer.eos_token)
    end = reply.rfind(mark)
    return end + len(mark) if end >= 0 else len(reply.rstrip())


def render(messages: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, generation_prompt: bool = False) -> str:
    """Messages as the text that the model reads."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generation_prompt)
    return str(text)


def mask_preview(row: Row, tokenizer: PreTrainedTokenizerBase) -> str:
    """The rendered row with the text that counts in the loss between ⟦ and ⟧."""
    text, spans = assistant_spans(row, tokenizer)
    for start, end in reversed(spans):
        text = f"{text[:start]}⟦{text[start:end]}⟧{text[end:]}"
    return text
