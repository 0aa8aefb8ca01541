"""The Riverbend data set is what its README says, and what its sources give."""

import collections
import importlib.util
import itertools
import json
import sys

import pytest
from tests.conftest import ROOT

SUPPORT = ROOT / "experiments" / "support"


@pytest.fixture(scope="module")
def build():
    for name in ("writing", "build"):  # the second imports the first
        spec = importlib.util.spec_from_file_location(name, SUPPORT / f"{name}.py")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def assembled(build):
    return build.assemble()


def rows(name):
    return [json.loads(line) for line in (SUPPORT / f"{name}.jsonl").read_text().splitlines()]


def by_split(build, name):
    found = collections.defaultdict(list)
    for row in rows(name):
        found[build.split_of(row["group"], build.SHARES)].append(row)
    return found


def test_the_sources_are_sound_and_give_the_committed_files(assembled):
    files, problems = assembled
    assert problems == []
    assert {name: rows(name.removesuffix(".jsonl")) for name in files} == dict(files)


def test_sizes(build):
    assert len(rows("conversations")) >= 1200
    assert len({row["intent"] for row in rows("conversations")}) == 12
    assert (len(rows("sanity")), len(rows("policy")), len(rows("general")), len(rows("preferences"))) == (
        60,
        240,
        240,
        360,
    )
    assert len(build.handbook()) == 60
    holdout = by_split(build, "conversations")["holdout"]
    assert len(holdout) >= 300
    assert len({row["group"] for row in holdout}) >= 60
    assert len(by_split(build, "policy")["holdout"]) >= 120


def test_every_policy_is_in_every_split(build):
    split = by_split(build, "conversations")
    for name in build.SHARES:
        assert len({row["policy"] for row in split[name]}) == 60


def test_no_two_rows_of_different_groups_are_alike(build):
    everything = rows("conversations") + rows("sanity")
    grams = [(row["group"], build.trigrams(" ".join(build.customer_turns(row)))) for row in everything]
    worst = max(len(a & b) / len(a | b) for (g, a), (h, b) in itertools.combinations(grams, 2) if g != h)
    assert worst <= 0.5


def test_every_reply_states_its_policys_facts_and_ends_with_its_route(build):
    handbook = build.handbook()
    for row in rows("conversations") + rows("sanity"):
        reply = row["messages"][-1]["content"]
        assert reply.endswith(f"\nRoute: {row['intent']}")
        assert all(fact.lower() in reply.lower() for fact in handbook[row["policy"]]["facts"])
        assert {"id", "group", "source", "intent"} <= row.keys()


def test_a_preference_pair_never_prefers_a_reply_to_itself():
    for row in rows("preferences"):
        assert row["chosen"] != row["rejected"]
        assert row["prompt"][-1]["role"] == "user"
