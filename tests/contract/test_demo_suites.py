"""The demo's suites are what its README says, what their sources give, and no part of the training."""

import collections
import importlib.util
import json
import sys

import pytest
from tests.conftest import ROOT

from tunesmith.config import Experiment
from tunesmith.config.task import Task
from tunesmith.data.split import split_of

SUPPORT = ROOT / "experiments" / "support"
SHARES = Experiment.from_yaml(ROOT / "experiments" / "support.yaml").data.split.shares()


@pytest.fixture(scope="module")
def assembled():
    for name in ("writing", "build", "build_suites"):  # each imports those before it
        spec = importlib.util.spec_from_file_location(name, SUPPORT / f"{name}.py")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.assemble()


def rows(name):
    return [json.loads(line) for line in (SUPPORT / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_sources_are_sound_and_give_the_committed_files(assembled):
    files, problems = assembled
    assert problems == []  # among them: customers who say what others say, and replies that the handbook does not bear
    assert {name: rows(name.removesuffix(".jsonl")) for name in files} == dict(files)


def test_every_class_has_at_least_25_items_and_some_in_every_held_out_split():
    found = collections.defaultdict(collections.Counter)
    for row in rows("adversarial"):
        found[row["class"]][split_of(row["group"], SHARES)] += 1
    for row in rows("dialogues"):
        found["dialogue"][split_of(row["group"], SHARES)] += 1
    assert len(found) == 8
    for counts in found.values():
        assert sum(counts.values()) >= 25
        assert set(counts) == {"tune", "holdout", "bench"}


def test_canaries_belong_to_train_and_are_not_planted_in_it():
    canaries = rows("canaries")
    assert len(canaries) >= 25
    assert {split_of(row["group"], SHARES) for row in canaries} == {"train"}
    trained = (SUPPORT / "conversations.jsonl").read_text(encoding="utf-8")
    assert not [row["secret"] for row in canaries if row["secret"] in trained]


def test_dialogues_have_several_turns_and_end_with_their_route():
    for row in rows("dialogues"):
        assert [message["role"] for message in row["messages"][1:]].count("assistant") >= 2
        assert row["messages"][-1]["content"].endswith(f"\nRoute: {row['intent']}")


def test_what_the_dialogue_task_says_of_its_measures_is_what_was_measured():
    task = Task.from_yaml(SUPPORT / "tasks" / "dialogue.yaml")
    newest = max((ROOT / "benchmarks" / "results").glob("*-dialogue-validity.json"))
    result = json.loads(newest.read_text(encoding="utf-8"))
    assert task.validity.scorer == result["scorer"]
    assert task.validity.auc == {name: round(found["auc"], 3) for name, found in result["swapped"].items()}
    unvalidated = {name for name, auc in task.validity.auc.items() if auc < 0.75}
    assert {name for name in task.validity.auc if task.metric(name, result["scorer"]) != name} == unvalidated
