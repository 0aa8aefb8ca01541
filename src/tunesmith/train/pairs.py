"""Preference rows as tokens: a prompt, and the replies to it up to their end marks."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from tunesmith.data.formats import prompt_of
from tunesmith.errors import DataError
from tunesmith.records import Row
from tunesmith.train.encode import IGNORED, Encoded, assistant_spans, render


@dataclass(frozen=True)
class Reply:
    """A prompt's tokens and one reply's; `wanted` says what the row says of it."""

    prompt: list[int]
    reply: list[int]
    wanted: bool = True
    truncated: bool = False

    @property
    def input_ids(self) -> list[int]:
        """Prompt and reply."""
        return [*self.prompt, *self.reply]

    @property
    def supervised(self) -> int:
        """The reply's tokens."""
        return len(self.reply)


@dataclass(frozen=True)
class Pair:
    """A prompt's tokens, those of the chosen reply and those of the rejected one."""

    id: str
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    truncated: bool = False

    @property
    def input_ids(self) -> list[int]:
        """Prompt and both replies."""
        return [*self.prompt, *self.chosen, *self.rejected]

    @property
    def supervised(self) -> int:
        """The tokens of both replies."""
        return len(self.chosen) + len(self.rejected)

    @property
    def texts(self) -> tuple[Encoded, Encoded]:
        """The prompt with the chosen reply, and with the rejected one; the replies are labelled."""
        return labelled(self.prompt, self.chosen), labelled(self.prompt, self.rejected)


@dataclass(frozen=True)
class Prompt:
    """A prompt that a policy is to reply to: its messages and their tokens."""

    messages: list[Row]
    input_ids: list[int]
    truncated: bool = False

    @property
    def supervised(self) -> int:
        """No token of it counts in a loss."""
        return 0


def labelled(prompt: Sequence[int], reply: Sequence[int]) -> Encoded:
    """A prompt and a reply as one text, the reply labelled."""
    return Encoded([*prompt, *reply], [IGNORED] * len(prompt) + [*reply], truncated=False)


def encode_reply(
    prompt: Sequence[Row], reply: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, max_length: int, row: str
) -> Reply:
    """A prompt and a reply, the reply cut to `max_length` tokens in all; raises `DataError` if nothing is left of it.

    Replies that hold more than one turn are taken whole: what stands between their turns is part of the reply.
    """
    text, _ = assistant_spans({"id": row, "messages": [*prompt, *reply]}, tokenizer)
    asked = render(prompt, tokenizer, generation_prompt=True)
    # apart, as the model meets them when it replies: no token reaches across
    start, rest = tokenizer([asked, text[len(asked) :]], add_special_tokens=False)["input_ids"]
    room = max_length - len(start)
    if room < 1:
        raise DataError(f"row {row}: no token of its reply fits into model.max_length {max_length}; raise it")
    return Reply(start, rest[:room], truncated=len(rest) > room)


def encode_pairs(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> list[Pair]:
    """Encode preference pairs; raises `DataError` for one whose replies are equal as far as they fit."""
    pairs = []
    for row in rows:
        chosen, rejected = (
            encode_reply(row["prompt"], row[key], tokenizer, max_length=max_length, row=row["id"])
            for key in ("chosen", "rejected")
        )
        if chosen.reply == rejected.reply:
            raise DataError(f"row {row['id']}: chosen and rejected are equal within model.max_length {max_length}")
        cut = chosen.truncated or rejected.truncated
        pairs.append(Pair(row["id"], chosen.prompt, chosen.reply, rejected.reply, cut))
    return pairs


def encode_prompts(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> list[Prompt]:
    """Encode what rows ask; raises `DataError` for a prompt that leaves no room for a reply."""
    prompts = []
    for row in rows:
        messages = prompt_of(row)
        ids = tokenizer(render(messages, tokenizer, generation_prompt=True), add_special_tokens=False)["input_ids"]
        if len(ids) >= max_length:
            raise DataError(f"row {row['id']}: its prompt fills model.max_length {max_length}; raise it")
        prompts.append(Prompt(messages, ids))
    return prompts
