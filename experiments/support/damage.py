"""Make `raw.jsonl`, what the curated set might have looked like before anybody curated it.

    python experiments/support/damage.py

Every curated conversation is in it, and several times as many rows that spoil it: exact copies, near
copies, off-topic chatter, wrong answers, personal data (invented; only the checksums are right), broken
formats, and questions of the held-out splits, of the sanity set and of the tasks leaked into train. All
of these fall into the train split. `raw.damage.jsonl` says what was done to which row; the audit never
reads it. Everything follows from one seed.
"""

import argparse
import collections
import json
import pathlib
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from chatter import chatter
from private import PRIVATE

from tunesmith.data.split import split_of

HERE = pathlib.Path(__file__).parent
SEED = 29
SHARES = {"train": 0.55, "tune": 0.10, "holdout": 0.25, "bench": 0.10}
COUNTS = {"copy": 1000, "near-copy": 800, "off-topic": 600, "wrong": 500, "pii": 400, "broken": 350, "leak": 250}
FILLERS = ["hi, ", "Hello there! ", "hey ", "Good morning. ", "quick question: ", "Sorry to bother you, ", "ok "]
CLOSERS = [" thanks", " Thank you!", " pls", " Cheers.", " thx in advance", " ??", " Please help."]
SHORTER = {"you are": "you're", "it is": "it's", "do not": "don't", "cannot": "can't", "please": "pls", "and": "&"}
ACKNOWLEDGE = ["Sure. ", "Of course. ", "Thanks for asking. ", "Happy to help. ", "Certainly. "]

Row = dict[str, Any]


@dataclass
class Damaged:
    """A spoilt row: what was done, how exactly, and the row it was made from."""

    kind: str
    detail: str
    row: Row
    source: str
    after_source: bool = True


def read(name: str) -> list[Row]:
    """The rows of a file beside this script."""
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]


def say(row: Row, question: str, answer: str) -> Row:
    """The row with its first question and last answer replaced."""
    messages = [dict(turn) for turn in row["messages"]]
    first = next(n for n, turn in enumerate(messages) if turn["role"] == "user")
    messages[first]["content"], messages[-1]["content"] = question, answer
    return {**row, "messages": messages}


def first_question(row: Row) -> str:
    """What the customer says first."""
    return next(str(turn["content"]) for turn in row["messages"] if turn["role"] == "user")


def last_answer(row: Row) -> str:
    """What the desk says last."""
    return str(row["messages"][-1]["content"])


def typo(text: str, rng: random.Random) -> str:
    """A letter dropped, doubled, or swapped with the next, inside a word."""
    places = [n for n in range(1, len(text) - 2) if text[n].isalpha() and text[n + 1].isalpha()]
    if not places:
        return text
    n = rng.choice(places)
    kind = rng.randrange(3)
    middle = ["", text[n] * 2, text[n + 1] + text[n]][kind]
    return text[:n] + middle + text[n + (2 if kind == 2 else 1) :]


def retype(text: str, rng: random.Random) -> str:
    """A text as somebody else would type it: typos, case, punctuation, a greeting, a shorter form."""
    edits: list[Callable[[str], str]] = [
        lambda t: typo(typo(t, rng), rng),
        lambda t: t.lower(),
        lambda t: re.sub(r"[.,;!?']", "", t),
        lambda t: rng.choice(FILLERS) + t,
        lambda t: t + rng.choice(CLOSERS),
        lambda t: re.sub("|".join(SHORTER), lambda m: SHORTER[m.group()], t),
        lambda t: t.replace(". ", "... ").replace("?", "??"),
    ]
    changed = text
    while changed == text:
        for edit in rng.sample(edits, rng.randint(1, 3)):
            changed = edit(changed)
    return changed


def copies(train: list[Row], rng: random.Random) -> Iterator[Damaged]:
    """Rows that were exported twice, or more often."""
    for row in rng.choices(train, k=COUNTS["copy"]):
        yield Damaged("copy", "exact", row, row["id"])


def near_copies(train: list[Row], rng: random.Random) -> Iterator[Damaged]:
    """Rows whose question was typed anew, and whose answer got an opening word now and then."""
    for n in range(COUNTS["near-copy"]):
        row = train[n % len(train)]
        answer = last_answer(row)
        opened = rng.random() < 0.3
        answer = rng.choice(ACKNOWLEDGE) + answer if opened else answer
        changed = say(row, retype(first_question(row), rng), answer)
        yield Damaged("near-copy", "both" if opened else "question", changed, row["id"])


def off_topic(train: list[Row], rng: random.Random) -> Iterator[Damaged]:
    """Chatter that was logged with a desk because each talk must have one."""
    for question, answer in chatter(rng, COUNTS["off-topic"]):
        row = rng.choice(train)
        messages = [row["messages"][0], {"role": "user", "content": question}]
        messages.append({"role": "assistant", "content": f"{answer}\nRoute: {row['intent']}"})
        yield Damaged("off-topic", "chatter", {**row, "messages": messages}, row["id"], after_source=False)


def wrong_answers(train: list[Row], rng: random.Random) -> Iterator[Damaged]:
    """Answers with another number, of another policy, or with another desk; half of the questions are retyped."""
    makers = [wrong_number, wrong_number, other_policy, other_policy, other_desk]
    numbered = [row for row in train if re.search(r"\d", body(row))]
    for n in range(COUNTS["wrong"]):
        maker = makers[n % len(makers)]
        row = rng.choice(numbered if maker is wrong_number else train)
        detail, changed = maker(row, train, rng)
        if rng.random() < 0.5:
            changed = say(changed, retype(first_question(changed), rng), last_answer(changed))
        yield Damaged("wrong", detail, changed, row["id"], after_source=False)


def body(row: Row) -> str:
    """The answer without its routing line."""
    return last_answer(row).rpartition("\nRoute:")[0]


def wrong_number(row: Row, _: list[Row], rng: random.Random) -> tuple[str, Row]:
    """The first number of the answer becomes another one."""
    text = body(row)
    found = rng.choice(list(re.finditer(r"\d+(?:\.\d+)?", text)))
    value = float(found.group())
    others = [v for v in (value * 2, value + 5, value * 3, value + 1, value / 2, 10 * value) if v not in (value, 0)]
    changed = text[: found.start()] + f"{rng.choice(others):g}" + text[found.end() :]
    return "number", say(row, first_question(row), f"{changed}\nRoute: {row['intent']}")


def other_policy(row: Row, train: list[Row], rng: random.Random) -> tuple[str, Row]:
    """The answer to another question, half of the time by the same desk."""
    near = rng.random() < 0.5
    pool = [o for o in train if o["policy"] != row["policy"] and (o["intent"] == row["intent"]) == near]
    other = rng.choice(pool)
    changed = say(row, first_question(row), last_answer(other))
    return "same desk's policy" if near else "other policy", {**changed, "intent": other["intent"]}


def other_desk(row: Row, train: list[Row], rng: random.Random) -> tuple[str, Row]:
    """The right answer with another desk in the routing line and in the row's label."""
    intents = sorted({o["intent"] for o in train} - {row["intent"]})
    intent = rng.choice(intents)
    return "desk", {**say(row, first_question(row), f"{body(row)}\nRoute: {intent}"), "intent": intent}


def private_rows(train: list[Row], rng: random.Random) -> Iterator[Damaged]:
    """Rows in which a customer, or the desk, wrote down something private."""
    kinds = list(PRIVATE)
    for n in range(COUNTS["pii"]):
        kind, row = kinds[n % len(kinds)], rng.choice(train)
        value = PRIVATE[kind](rng)
        if rng.random() < 0.8:
            question = f"{first_question(row)} {value[0].upper()}{value[1:]}."
            changed = say(row, question, last_answer(row))
        else:
            noted = f"{body(row)} I noted what you gave us: {value}.\nRoute: {row['intent']}"
            changed = say(row, first_question(row), noted)
        yield Damaged("pii", kind, changed, row["id"])


def broken_rows(train: list[Row], rng: random.Random) -> Iterator[Damaged]:
    """Rows that an export, a scraper or a wrong template has broken."""
    breakers = list(BREAKERS)
    for n in range(COUNTS["broken"]):
        name, row = breakers[n % len(breakers)], rng.choice(train)
        messages = BREAKERS[name]([dict(turn) for turn in row["messages"]], rng)
        yield Damaged("broken", name, {**row, "messages": messages}, row["id"])


def with_content(messages: list[Row], place: int, text: str) -> list[Row]:
    """Messages with the text of one replaced."""
    messages[place]["content"] = text
    return messages


def misread(text: str) -> str:
    """Typographic apostrophes and dashes, in UTF-8 that was read as Windows-1252."""
    curly = text.replace("'", "’").replace(", ", " – ", 1)
    return curly.encode("utf-8").decode("cp1252")


BREAKERS: dict[str, Callable[[list[Row], random.Random], list[Row]]] = {
    "empty question": lambda m, rng: with_content(m, 1, rng.choice(["", "  ", "\n"])),
    "empty answer": lambda m, rng: with_content(m, -1, ""),
    "chat markup": lambda m, rng: with_content(m, -1, f"{m[-1]['content']}{rng.choice(['<|im_end|>', '</s>'])}"),
    "instruction markup": lambda m, rng: with_content(m, 1, f"[INST] {m[1]['content']} [/INST]"),
    "heading": lambda m, rng: with_content(m, 1, f"### Instruction:\n{m[1]['content']}\n### Response:"),
    "page markup": lambda m, rng: with_content(m, -1, m[-1]["content"].replace(". ", ".<br>") + "</p>"),
    "misread": lambda m, rng: with_content(m, 1, misread(f"{m[1]['content']} I'm waiting, it's late")),
    "lost characters": lambda m, rng: with_content(m, 1, m[1]["content"].replace("e", "\ufffd", 2)),
    "control character": lambda m, rng: with_content(m, -1, m[-1]["content"].replace(" ", "\x0b", 1)),
    "unknown role": lambda m, rng: [*m[:-1], {**m[-1], "role": rng.choice(["bot", "agent", "gpt"])}],
    "two questions": lambda m, rng: [*m[:2], {"role": "user", "content": "hello??"}, *m[2:]],
    "no answer": lambda m, rng: m[:-1],
    "cut off": lambda m, rng: with_content(m, -1, m[-1]["content"][: len(m[-1]["content"]) // 2]),
    "no label": lambda m, rng: with_content(m, -1, m[-1]["content"].rpartition("\n")[0]),
}


def leaked_rows(everything: list[Row], rng: random.Random) -> Iterator[Damaged]:
    """Held-out questions that found their way into the log, word for word, retyped lightly, or with a greeting."""
    held_out = [("split", row) for row in everything if split_of(row["group"], SHARES) != "train"]
    items = [("sanity", row) for row in read("sanity.jsonl")]
    for name in ("policy", "general"):
        items += [(f"task {name}", row) for row in read(f"{name}.jsonl") if split_of(row["group"], SHARES) != "train"]
    chosen = rng.sample(held_out, COUNTS["leak"] // 2) + rng.sample(items, COUNTS["leak"] - COUNTS["leak"] // 2)
    for n, (origin, row) in enumerate(chosen):
        question = row.get("question") or first_question(row)
        answer = row["choices"][row["answer"]] if "choices" in row else body(row)
        question = [question, question, question.lower().rstrip("?.! "), rng.choice(FILLERS) + question][n % 4]
        intent = row.get("intent") or rng.choice(everything)["intent"]
        base = everything[0] if "choices" in row else row
        messages = [*base["messages"][:1], {"role": "user", "content": question}]
        if len(base["messages"]) > 3 and "choices" not in row:
            messages += base["messages"][2:-1]
        messages.append({"role": "assistant", "content": f"{answer}\nRoute: {intent}"})
        policy = row.get("policy", everything[0]["policy"])
        spoilt = {"source": "riverbend-desk", "intent": intent, "policy": policy, "messages": messages}
        yield Damaged("leak", origin, spoilt, row["id"], after_source=False)


def train_groups() -> Iterator[str]:
    """Names of groups that fall into train."""
    n = 0
    while True:
        n += 1
        if split_of(f"chat/{n}", SHARES) == "train":
            yield f"chat/{n}"


def assemble() -> tuple[list[Row], list[Row]]:
    """All rows in the order of the log, and the record of the damage."""
    rng = random.Random(SEED)
    everything = read("conversations.jsonl")
    train = [row for row in everything if split_of(row["group"], SHARES) == "train"]
    makers = (copies, near_copies, off_topic, wrong_answers, private_rows, broken_rows)
    damaged = [spoilt for maker in makers for spoilt in maker(train, rng)] + list(leaked_rows(everything, rng))
    place = {row["id"]: rng.random() / 2 for row in everything}
    log = [(place[row["id"]], row, None) for row in everything]
    for spoilt in damaged:
        start = place.get(spoilt.source, 0.0) if spoilt.after_source else 0.0
        log.append((start + rng.random() * (1 - start), spoilt.row, spoilt))
    groups, rows, record = train_groups(), [], []
    for _, row, spoilt in sorted(log, key=lambda entry: entry[0]):
        if spoilt is not None:
            group = next(groups)
            labels = {"id": group.replace("/", "-"), "group": group}
            record.append({"id": labels["id"], "kind": spoilt.kind, "detail": spoilt.detail, "of": spoilt.source})
        rows.append(row if spoilt is None else {**row, **labels})
    return rows, record


def main() -> int:
    """Write both files."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows, record = assemble()
    for name, lines in (("raw.jsonl", rows), ("raw.damage.jsonl", record)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (HERE / name).write_text(text, encoding="utf-8")
        print(f"{name}: {len(lines)} rows")
    print(dict(collections.Counter(line["kind"] for line in record)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
