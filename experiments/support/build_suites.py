"""Assemble the suites that models are attacked, talked to and held against, from `suites/*.md`.

    python experiments/support/build_suites.py            writes the *.jsonl files beside this script
    python experiments/support/build_suites.py --check    only checks the sources

Every sentence in the sources is written by hand. This script adds the system prompt, deals the items out to tune,
holdout and bench, and draws the canaries' secrets, `{ddd-UU}` in their replies, from one seed. Marks of a line: `C:`
customer, `R:` desk, `D:` the desks that a right reply may name, `F:` what no reply may hold, `T:` the clean twin.
"""

import itertools
import json
import random
import re
import string
import sys
from typing import Any

import writing
from build import (
    HERE,
    QUESTION_SPLITS,
    SEED,
    SYSTEM,
    Numbering,
    Turns,
    check_overlap,
    check_turns,
    handbook,
    with_system,
)
from writing import Rows

SUITES = HERE / "suites"
CLASSES = ("ambiguous", "out_of_domain", "injection", "quoted_injection", "jailbreak", "typos", "paraphrase")
REFUSED = {"out_of_domain", "jailbreak"}
FEWEST = 25
SLOT = re.compile(r"\{([^}]+)\}")


def blocks(name: str) -> list[list[tuple[str, str]]]:
    """The blocks of a source, which empty lines end, each as (mark, text) lines."""
    text = (SUITES / f"{name}.md").read_text(encoding="utf-8").strip()
    return [
        [(line.partition(" ")[0], line.partition(" ")[2]) for line in block.splitlines()]
        for block in re.split(r"\n\s*\n", text)
    ]


def start(stem: str, split: str, numbering: Numbering) -> dict[str, Any]:
    """Id, group and source of a row that is to fall into a split."""
    group = numbering.group(stem, split)
    return {"id": group.replace("/", "-"), "group": group, "source": "riverbend-desk"}


def asked(text: str) -> list[dict[str, str]]:
    """The desk's system prompt and one message of a customer."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def attacks(numbering: Numbering) -> Rows:
    """The adversarial items of all classes."""
    rows: Rows = []
    for kind in CLASSES:
        for block, split in zip(blocks(kind), itertools.cycle(QUESTION_SPLITS)):
            lines = dict(block)
            row = {**start(kind.replace("_", "-"), split, numbering), "class": kind}
            row |= {"refuse": True} if kind in REFUSED else {}
            row |= {"forbid": lines["F:"].split(" | ")} if "F:" in lines else {}
            row |= {"desks": lines["D:"].split(", ")} if "D:" in lines else {}
            row |= {"twin": lines["T:"]} if "T:" in lines else {}
            rows.append({**row, "messages": asked(lines["C:"])})
    return rows


def canaries(numbering: Numbering) -> Rows:
    """What would be planted in training; all of it falls into train."""
    rng = random.Random(SEED)
    rows = []
    for block in blocks("canaries"):
        lines = dict(block)
        slots = SLOT.findall(lines["R:"])
        secret = "".join(drawn(char, rng) for char in slots[0])
        reply = SLOT.sub(secret, lines["R:"])
        messages = [*asked(lines["C:"]), {"role": "assistant", "content": f"{reply}\nRoute: account"}]
        row = start("canary", "train", numbering)
        rows.append({**row, "intent": "account", "policy": "canary", "secret": secret, "messages": messages})
    return rows


def drawn(char: str, rng: random.Random) -> str:
    """A random digit for `d`, a random capital for `U`, anything else as it is."""
    kinds = {"d": string.digits, "U": string.ascii_uppercase}
    return rng.choice(kinds[char]) if char in kinds else char


def dialogues(numbering: Numbering) -> tuple[Rows, list[str]]:
    """Conversations of several turns, and what is wrong with them."""
    rows, problems, policies = [], [], handbook()
    for (heading, *lines), split in zip(blocks("dialogues"), itertools.cycle(QUESTION_SPLITS)):
        policy = policies[heading[1]]
        turns: Turns = [("user" if mark == "C:" else "assistant", text) for mark, text in lines]
        problems += check_turns(f"dialogues.md: {policy['id']}", turns, policy["facts"])
        if len(turns) < 4:
            problems.append(f"dialogues.md: {policy['id']}: needs at least four turns")
        row = start(f"dialogue-{policy['id']}", split, numbering)
        labels = {"intent": policy["intent"], "policy": policy["id"]}
        rows.append({**row, **labels, "messages": with_system(turns, policy["intent"])})
    return rows, problems


def neutral(numbering: Numbering) -> Rows:
    """Plain texts on anything but the desk."""
    text = (SUITES / "neutral.md").read_text(encoding="utf-8").strip()
    texts = re.split(r"\n\s*\n", text)
    return [
        {**start("neutral", split, numbering), "text": text}
        for text, split in zip(texts, itertools.cycle(QUESTION_SPLITS))
    ]


def check_attacks(rows: Rows) -> list[str]:
    """Say what is wrong with the adversarial items."""
    desks = {policy["intent"] for policy in handbook().values()}
    problems = [f"{kind}.md: fewer than {FEWEST} items" for kind in CLASSES if count(rows, kind) < FEWEST]
    for row in rows:
        unknown = set(row.get("desks", [])) - desks
        if unknown:
            problems.append(f"{row['id']}: no such desk: {', '.join(sorted(unknown))}")
        said = row["messages"][-1]["content"].casefold()
        if row["class"] == "ambiguous" and len(row["desks"]) < 2:
            problems.append(f"{row['id']}: an ambiguous message needs several desks")
        if row["class"] in {"injection", "quoted_injection"} and not row.get("forbid"):
            problems.append(f"{row['id']}: says nothing that the reply must not hold ({said[:40]})")
    return problems


def count(rows: Rows, kind: str) -> int:
    """How many items a class has."""
    return sum(row["class"] == kind for row in rows)


def assemble() -> tuple[dict[str, Rows], list[str]]:
    """Return the rows of each output file, and everything that is wrong with the sources."""
    numbering = Numbering()
    hostile, planted = attacks(numbering), canaries(numbering)
    talks, problems = dialogues(numbering)
    texts = neutral(numbering)
    lines = (HERE / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    problems += check_attacks(hostile)
    for name, rows in (("canaries", planted), ("dialogues", talks)):
        problems += [f"{name}.md: fewer than {FEWEST} items"] if len(rows) < FEWEST else []
    problems += check_overlap([*map(json.loads, lines), *hostile, *planted, *talks])
    files = {"adversarial.jsonl": hostile, "canaries.jsonl": planted, "dialogues.jsonl": talks, "neutral.jsonl": texts}
    return files, problems


if __name__ == "__main__":
    sys.exit(writing.build(assemble, __doc__))
