"""Assemble the Riverbend data set from its hand-written sources.

    python experiments/support/build.py            writes the *.jsonl files beside this script
    python experiments/support/build.py --check    only checks the sources

Sources: `handbook.yaml` (the policies), `scenarios/*.md` (conversations, questions and flawed
replies of each policy) and `general/*.md` (general knowledge). Every sentence in them is written by
hand; this script adds the system prompt and the routing line, deals scenarios out to the splits,
and pairs flawed replies with good ones, all from one seed.
"""

import collections
import itertools
import pathlib
import random
import re
import sys
from dataclasses import dataclass, field
from typing import Any

import writing
import yaml

from tunesmith.data.split import split_of

HERE = writing.HERE
SEED = 17
SHARES = {"train": 0.55, "tune": 0.10, "holdout": 0.25, "bench": 0.10}
SYSTEM = "You are the Riverbend Power & Water desk. Answer by policy, then name the desk: Route: <desk>."
SCENARIO_SPLITS = [  # of the policies, by turns
    ["train"] * 6 + ["tune"] + ["holdout"] * 3 + ["bench"],
    ["train"] * 7 + ["tune"] + ["holdout"] * 2 + ["bench"],
]
QUESTION_SPLITS = ["holdout", "holdout", "tune", "bench"]
PREFERENCE_SPLITS = ["train"] * 3 + ["tune", "holdout", "bench"]
FLAWS = {"wrong-fact", "vague", "rude", "invented", "missing-route", "wrong-route"}
MAX_SHARED_TRIGRAMS = 0.5

Turns = list[tuple[str, str]]


@dataclass
class Policy:
    """What one section of a scenario file holds."""

    id: str
    scenarios: list[list[Turns]] = field(default_factory=list)
    questions: list[list[str]] = field(default_factory=list)
    sanity: list[Turns] = field(default_factory=list)
    flawed: list[tuple[str, str]] = field(default_factory=list)


class SourceError(ValueError):
    """A source file breaks the rules; the message names file and line."""


def parse(path: pathlib.Path) -> list[Policy]:
    """Read one source file: `#` policy, `##` scenario, `C:`/`R:` turns, `?+-` questions, `S:`, `!`."""
    policies: list[Policy] = []
    turns: Turns | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        mark, _, rest = line.strip().partition(" ")
        if mark == "#":
            policies.append(Policy(rest))
        elif mark in {"C:", "R:", "S:", ""}:
            turns = add_turn(policies, turns, mark, rest)
        elif not policies or not add_line(policies[-1], mark, rest):
            raise SourceError(f"{path.name}:{number}: not a known kind of line: {line[:40]!r}")
    return policies


def add_turn(policies: list[Policy], turns: Turns | None, mark: str, text: str) -> Turns | None:
    """Add a turn to the conversation under way, which an empty line ends, and return that conversation."""
    if mark == "":
        return None
    if mark == "S:":
        turns = []
        policies[-1].sanity.append(turns)
    elif turns is None:
        turns = []
        policies[-1].scenarios[-1].append(turns)
    turns.append(("assistant" if mark == "R:" else "user", text))
    return turns


def add_line(policy: Policy, mark: str, text: str) -> bool:
    """Add a scenario's heading, a question, an option or a flawed reply; False if it is none of these."""
    if mark == "##":
        policy.scenarios.append([])
    elif mark == "?":
        policy.questions.append([text])
    elif mark in {"+", "-"}:
        policy.questions[-1].append(f"{mark} {text}")
    elif mark == "!":
        flaw, _, reply = text.partition(": ")
        policy.flawed.append((flaw, reply))
    else:
        return False
    return True


def check_question(where: str, question: list[str]) -> list[str]:
    """Say what is wrong with a four-way question."""
    marks = "".join(sorted(option[0] for option in question[1:]))
    if marks != "+---":
        return [f"{where}: a question needs one + and three - options: {question[0][:50]!r}"]
    if len({option[2:].lower() for option in question[1:]}) < 4:
        return [f"{where}: two options are the same: {question[0][:50]!r}"]
    return []


def check_turns(where: str, turns: Turns, facts: list[str]) -> list[str]:
    """Say what is wrong with a conversation: turn order, and facts its last reply leaves out."""
    problems = []
    roles = [role for role, _ in turns]
    if not turns or len(turns) % 2 or roles != ["user", "assistant"] * (len(turns) // 2):
        return [f"{where}: turns must alternate C:, R: ({turns[0][1][:50]!r})"]
    reply = turns[-1][1]
    missing = [fact for fact in facts if fact.lower() not in reply.lower()]
    if missing:
        problems.append(f"{where}: reply leaves out {missing}: {reply[:70]!r}")
    if len(reply.split()) > 40:
        problems.append(f"{where}: reply has {len(reply.split())} words, at most 40: {reply[:50]!r}")
    if any("route:" in text.lower() for _, text in turns):
        problems.append(f"{where}: the routing line is added by the script: {reply[:50]!r}")
    return problems


def check_policy(where: str, policy: Policy, facts: list[str]) -> list[str]:
    """Say everything that is wrong with one policy's section."""
    problems = []
    for scenario in policy.scenarios:
        if len(scenario) < 2:
            problems.append(f"{where}: each scenario needs at least 2 conversations")
    wanted = {"scenarios": len(SCENARIO_SPLITS[0]), "questions": len(QUESTION_SPLITS), "sanity": 1}
    wanted["flawed"] = len(PREFERENCE_SPLITS)
    for name, count in wanted.items():
        if len(getattr(policy, name)) != count:
            problems.append(f"{where}: {len(getattr(policy, name))} {name}, not {count}")
    for turns in itertools.chain(policy.sanity, *policy.scenarios):
        problems += check_turns(where, turns, facts)
    for question in policy.questions:
        problems += check_question(where, question)
    if {flaw for flaw, _ in policy.flawed} != FLAWS:
        problems.append(f"{where}: flawed replies must be one of each of {sorted(FLAWS)}")
    return problems


def trigrams(text: str) -> frozenset[tuple[str, ...]]:
    """The word 3-grams of a text (the whole text when it is shorter)."""
    words = re.findall(r"[a-z0-9$']+", text.lower())
    return frozenset(tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2)))


def check_overlap(rows: list[dict[str, Any]]) -> list[str]:
    """Name pairs of rows of different groups whose customer turns are too alike."""
    grams = [trigrams(" ".join(customer_turns(row))) for row in rows]
    holders: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
    problems = []
    for j, row in enumerate(rows):
        shared = collections.Counter(i for gram in grams[j] for i in holders[gram])
        for i, count in shared.items():
            union = len(grams[i]) + len(grams[j]) - count
            if count / union > MAX_SHARED_TRIGRAMS and rows[i]["group"] != row["group"]:
                problems.append(f"{rows[i]['id']} and {row['id']} share {count} of {union} trigrams")
        for gram in grams[j]:
            holders[gram].append(j)
    return problems


def customer_turns(row: dict[str, Any]) -> list[str]:
    """What the customer says in a row."""
    return [turn["content"] for turn in row["messages"] if turn["role"] == "user"]


class Numbering:
    """Gives out group names `policy/n`, with n chosen so that the hash split puts it where wanted."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def group(self, stem: str, split: str) -> str:
        """Return the first unused name under `stem` that falls into `split`."""
        for n in itertools.count(1):
            name = f"{stem}/{n}"
            if name not in self.used and split_of(name, SHARES) == split:
                self.used.add(name)
                return name
        raise AssertionError


def with_system(turns: Turns, intent: str) -> list[dict[str, str]]:
    """Turns as chat messages: the desk's system prompt first, the routing line last."""
    messages = [{"role": "system", "content": SYSTEM}]
    messages += [{"role": role, "content": text} for role, text in turns]
    messages[-1]["content"] += f"\nRoute: {intent}"
    return messages


def conversation(turns: Turns, *, intent: str, policy: str, group: str, n: int) -> dict[str, Any]:
    """One row in the messages format."""
    row = {"id": f"{group}-{n}".replace("/", "-"), "group": group, "source": "riverbend-desk"}
    return {**row, "intent": intent, "policy": policy, "messages": with_system(turns, intent)}


def question_row(question: list[str], *, group: str, rng: random.Random, **labels: str) -> dict[str, Any]:
    """One four-way question with its options in random order."""
    options = question[1:]
    rng.shuffle(options)
    answer = next(i for i, option in enumerate(options) if option[0] == "+")
    row = {"id": group.replace("/", "-"), "group": group, "source": "riverbend-desk", **labels}
    choices = [option[2:] for option in options]
    return {**row, "question": question[0], "choices": choices, "answer": answer}


def preference_rows(
    flawed: list[tuple[str, str]], rows: list[dict[str, Any]], rng: random.Random
) -> list[dict[str, Any]]:
    """Pair each flawed reply with a good one of the same policy, spread over the splits."""
    intents = sorted({policy["intent"] for policy in handbook().values()})
    pool = collections.defaultdict(list)
    for row in rows:
        pool[split_of(row["group"], SHARES)].append(row)
    pairs = []
    for (flaw, reply), split in zip(flawed, rng.sample(PREFERENCE_SPLITS, 6), strict=True):
        row = pool[split].pop(rng.randrange(len(pool[split])))
        route = row["intent"]
        if flaw == "wrong-route":
            route = rng.choice([intent for intent in intents if intent != route])
        rejected = reply if flaw == "missing-route" else f"{reply}\nRoute: {route}"
        labels = {key: row[key] for key in ("group", "source", "intent", "policy")}
        pairs.append(
            {
                "id": f"{row['id']}-{flaw}",
                **labels,
                "flaw": flaw,
                "prompt": row["messages"][:-1],
                "chosen": [row["messages"][-1]],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
        )
    return pairs


def handbook() -> dict[str, dict[str, Any]]:
    """The policies by id."""
    entries = yaml.safe_load((HERE / "handbook.yaml").read_text(encoding="utf-8"))
    return {entry["id"]: entry for entry in entries}


def assemble() -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Return the rows of each output file, and everything that is wrong with the sources."""
    rng, numbering, policies = random.Random(SEED), Numbering(), handbook()
    files: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    problems: list[str] = []
    for path in sorted((HERE / "scenarios").glob("*.md")):
        for policy in parse(path):
            entry = policies.pop(policy.id)
            bad = check_policy(f"{path.name}: {policy.id}", policy, entry["facts"])
            problems += bad
            if not bad:
                add_policy(files, policy, intent=entry["intent"], rng=rng, numbering=numbering)
    for path in sorted((HERE / "general").glob("*.md")):
        questions = [question for topic in parse(path) for question in topic.questions]
        problems += [p for question in questions for p in check_question(path.name, question)]
        for question, split in zip(questions, itertools.cycle(QUESTION_SPLITS)):
            group = numbering.group(f"general-{path.stem}", split)
            files["general.jsonl"].append(question_row(question, group=group, rng=rng, topic=path.stem))
    problems += [f"handbook.yaml: {name} has no scenarios" for name in policies]
    rows = files["conversations.jsonl"] + files["sanity.jsonl"]
    return files, problems + check_overlap(rows)


def add_policy(
    files: dict[str, list[dict[str, Any]]], policy: Policy, *, intent: str, rng: random.Random, numbering: Numbering
) -> None:
    """Add one policy's rows to the output files."""
    labels = {"intent": intent, "policy": policy.id}
    rows = []
    splits = SCENARIO_SPLITS[len(files["sanity.jsonl"]) % 2]
    for scenario, split in zip(policy.scenarios, rng.sample(splits, len(splits)), strict=True):
        group = numbering.group(policy.id, split)
        rows += [conversation(turns, group=group, n=n, **labels) for n, turns in enumerate(scenario, 1)]
    files["conversations.jsonl"] += rows
    files["preferences.jsonl"] += preference_rows(policy.flawed, rows, rng)
    for turns in policy.sanity:
        files["sanity.jsonl"].append(conversation(turns, group=f"sanity-{policy.id}", n=1, **labels))
    for question, split in zip(policy.questions, QUESTION_SPLITS, strict=True):
        group = numbering.group(f"{policy.id}-question", split)
        row = question_row(question, group=group, rng=rng, **labels)
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row["question"]}]
        files["policy.jsonl"].append({**row, "messages": messages})


if __name__ == "__main__":
    sys.exit(writing.build(assemble, __doc__))
