"""Rows: reading, splitting, sub-sampling and digesting them."""

import collections
import json
import pathlib

import pytest

from tunesmith.config import Experiment, overrides
from tunesmith.data.dataset import load_dataset, load_rows, training_rows
from tunesmith.data.digest import digest_of, digest_rows
from tunesmith.data.formats import check_conversation
from tunesmith.data.readers.lines import read_jsonl
from tunesmith.data.split import split_of, stratified
from tunesmith.data.tasks import fewer_items, load_items, load_tasks
from tunesmith.errors import ConfigError, DataError

SHARES = {"train": 0.55, "tune": 0.10, "holdout": 0.25, "bench": 0.10}
GOOD = {
    "id": "a",
    "group": "g",
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
}


def row(**changes):
    return {**GOOD, **changes}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\n", ":2: empty line; remove it"),
        (b'{"id": }\n', ":2: broken JSON at column 8"),
        (b"[1]\n", ":2: a row must be an object, not list"),
        (b'{"id": "\xff"}\n', ":2: not UTF-8 at byte 8"),
        (json.dumps(row(id="")).encode(), ":2: id: every row needs a non-empty text here"),
        (json.dumps(row(group=[3])).encode(), ":2: group: every row needs a non-empty text here"),
        (json.dumps(row(messages=[])).encode(), ":2: messages: a list of at least a user and an assistant turn"),
        (json.dumps(row(messages=GOOD["messages"][::-1])).encode(), ":2: messages: turns must alternate"),
        (
            json.dumps(row(messages=[{"role": "bot", "content": "x"}] * 2)).encode(),
            ":2: messages[0].role: must be one of",
        ),
        (json.dumps(row(messages=[{"role": "user", "content": " "}] * 2)).encode(), ":2: messages[0].content: must be"),
        (json.dumps(GOOD).encode(), ":2: id: already used on line 1; ids must be unique"),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path: pathlib.Path, line: bytes, message: str):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line)
    with pytest.raises(DataError) as caught:
        load_rows(path, check_conversation)
    assert str(caught.value).startswith(f"{path}{message}")


def test_missing_and_empty_files_are_refused(tmp_path: pathlib.Path):
    with pytest.raises(DataError, match="cannot be read"):
        list(read_jsonl(tmp_path / "none.jsonl"))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="is empty"):
        list(read_jsonl(tmp_path / "empty.jsonl"))


def test_splits_follow_the_shares():
    counts = collections.Counter(split_of(f"group-{n}", SHARES) for n in range(20_000))
    for name, share in SHARES.items():
        assert counts[name] / 20_000 == pytest.approx(share, abs=0.01)


def test_a_split_depends_on_nothing_but_the_name():
    names = ["train", "tune", "train", "train", "train", "train"]
    assert [split_of(f"policy/{n}", SHARES) for n in range(6)] == names


def test_a_subset_takes_turns_between_strata_whatever_the_order():
    rows = [{"id": f"{kind}-{n}", "kind": kind} for kind in "abc" for n in range(10)]
    chosen = stratified(rows, 7, by="kind")
    assert sorted(collections.Counter(r["kind"] for r in chosen).values()) == [2, 2, 3]
    again = stratified(rows[::-1], 7, by="kind")
    assert {r["id"] for r in again} == {r["id"] for r in chosen}
    assert {r["id"] for r in stratified(rows, 4, by="kind")} < {r["id"] for r in chosen}


def test_digests_see_nested_changes_and_order_of_rows_but_not_of_keys():
    changed = row(messages=[GOOD["messages"][0], {"role": "assistant", "content": "Ho!"}])
    assert digest_of(changed) != digest_of(GOOD)
    assert digest_of(dict(reversed(GOOD.items()))) == digest_of(GOOD)
    assert digest_rows([GOOD, changed]) != digest_rows([changed, GOOD])


def test_training_rows_are_a_digested_subset(root):
    experiment = overrides.apply(Experiment.from_yaml(root / "experiments/support.yaml"), {"data.train_rows": 120})
    dataset = load_dataset(experiment)
    subset = training_rows(dataset, experiment.data)
    assert len(subset.rows) == 120
    assert set(collections.Counter(r["policy"] for r in subset.rows).values()) == {2}
    assert subset.digest != dataset.train.digest


def test_a_trial_is_scored_on_few_items_shared_between_tasks(root):
    experiment = Experiment.from_yaml(root / "experiments/support.yaml")
    tasks = {name: load_tasks(experiment)[name] for name in experiment.evaluation.tasks}
    everything = load_items(tasks, experiment, "tune")
    items = fewer_items(everything, tasks, experiment, keep_primary=False)
    assert items["intent"] == items["reply"]
    assert sum(len(items[name]) for name in tasks if name != "reply") == experiment.evaluation.trial_items == 48
    confirmed = fewer_items(everything, tasks, experiment, keep_primary=True)
    assert confirmed["intent"] == everything["intent"]
    assert confirmed["policy"] == items["policy"]


def test_a_missing_task_file_is_named(root):
    experiment = Experiment.from_yaml(root / "experiments/smoke.yaml")
    values = {"evaluation.tasks": ["intnt"], "evaluation.primary": "tune/intnt/exact_match"}
    with pytest.raises(ConfigError, match=r"evaluation.tasks: intnt: no file .*intnt.yaml; tasks there: intent, quiz"):
        load_tasks(overrides.apply(experiment, values))
