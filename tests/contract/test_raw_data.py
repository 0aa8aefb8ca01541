"""The raw demo data is what its generator makes, and holds every curated row."""

import collections
import importlib.util
import json
import sys

import pytest
from tests.conftest import ROOT

SUPPORT = ROOT / "experiments" / "support"


@pytest.fixture(scope="module")
def damage():
    spec = importlib.util.spec_from_file_location("damage", SUPPORT / "damage.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["damage"] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SUPPORT))


def rows(name):
    return [json.loads(line) for line in (SUPPORT / name).read_text(encoding="utf-8").splitlines()]


def test_the_generator_gives_the_committed_files(damage):
    raw, record = damage.assemble()
    assert raw == rows("raw.jsonl")
    assert record == rows("raw.damage.jsonl")
    assert collections.Counter(line["kind"] for line in record) == damage.COUNTS
    assert len(raw) >= 5_000


def test_every_curated_row_is_there_and_all_damage_falls_into_train(damage):
    raw, spoilt = rows("raw.jsonl"), {line["id"] for line in rows("raw.damage.jsonl")}
    sound = {row["id"]: row for row in raw if row["id"] not in spoilt}
    assert sound == {row["id"]: row for row in rows("conversations.jsonl")}
    groups = {row["group"] for row in raw if row["id"] in spoilt}
    assert {damage.split_of(group, damage.SHARES) for group in groups} == {"train"}
