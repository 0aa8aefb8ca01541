"""Items as prompts: after a task's examples, in the model's chat template or as plain text."""

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from tunesmith.config.task import Task
from tunesmith.evaluate.requests import renderer
from tunesmith.records import Row

Message = dict[str, str]

QUESTION = {"user": "Question", "assistant": "Answer"}
CONVERSATION = {"user": "User", "assistant": "Assistant"}


def make_doc(row: Row, task: Task, tokenizer: PreTrainedTokenizerBase, *, separate: bool = False) -> dict[str, Any]:
    """An item as the harness sees it: the rendered prompt, the reference reply, the row's own fields.

    Where prompt and reply are read apart (`separate`), the reply's tokens are counted alone.
    """
    doc = {key: value for key, value in row.items() if key not in {"messages", "shots"}}
    if "text" in row and "messages" not in row:
        return {**doc, "tokens": len(tokenizer(row["text"], add_special_tokens=False)["input_ids"])}
    asked, reply = parts(row)
    messages = with_shots(asked, row.get("shots", ()))
    chat = "messages" in row if task.chat_template is None else task.chat_template
    prompt = renderer(tokenizer)(messages) if chat else plain(messages, CONVERSATION if "messages" in row else QUESTION)
    delimiter = "" if chat else " "
    # lm-eval moves the prompt's last whitespace into the continuation, so it is counted with the reply
    before = prompt.rstrip()
    texts = [(prompt + delimiter + reply).removeprefix(before if separate else ""), "" if separate else before]
    whole, alone = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return {**doc, "prompt": prompt, "delimiter": delimiter, "reply": reply, "reply_tokens": len(whole) - len(alone)}


def parts(row: Row) -> tuple[list[Message], str]:
    """What is asked, as messages, and the right reply; of a question that is the right choice."""
    messages = list(row["messages"]) if "messages" in row else [{"role": "user", "content": row["question"]}]
    if messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1]["content"]
    return messages, row["choices"][row["answer"]] if "choices" in row else ""


def with_shots(asked: list[Message], shots: Iterable[Row]) -> list[Message]:
    """The messages with examples as earlier turns; the system prompt is the item's own."""
    earlier: list[Message] = []
    for shot in shots:
        question, answer = parts(shot)
        earlier += [message for message in question if message["role"] != "system"]
        earlier.append({"role": "assistant", "content": answer})
    system = [message for message in asked if message["role"] == "system"]
    return [*system, *earlier, *asked[len(system) :]]


def plain(messages: list[Message], speakers: Mapping[str, str]) -> str:
    """Messages up to the model's turn, each with its speaker's name; after an answer comes an empty line."""
    text = ""
    for message in messages:
        if message["role"] == "system":
            text += f"{message['content']}\n\n"
        else:
            end = "\n\n" if message["role"] == "assistant" else "\n"
            text += f"{speakers[message['role']]}: {message['content']}{end}"
    return f"{text}{speakers['assistant']}:"
