"""Versions: what changed between two states of a data set, and that no row ever changes its split."""

import json
import random

import pytest
from click.testing import CliRunner

from tunesmith.cli import main
from tunesmith.config.experiment import DataConfig, SplitConfig
from tunesmith.data.dataset import deal, load_rows
from tunesmith.data.digest import digest_rows
from tunesmith.data.formats import check_conversation
from tunesmith.data.versions import DataReference, diff
from tunesmith.errors import DataError


def talk(n, *, answer="yes", **more):
    turns = [{"role": "user", "content": f"Is {n} a number?"}, {"role": "assistant", "content": answer}]
    return {"id": f"row-{n}", "group": f"group-{n % 40}", "messages": turns, **more}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def compare(a, b, split=None):
    return diff(DataReference(a, split=split), DataReference(b))


def test_added_removed_and_edited_rows_are_named(tmp_path):
    rows = [talk(n) for n in range(100)]
    a = write(tmp_path / "a.jsonl", rows)
    edited = [{**rows[3], "messages": [rows[3]["messages"][0], {"role": "assistant", "content": "no"}]}, *rows[4:]]
    edited[5] = {**edited[5], "topic": "maths", "group": "elsewhere"}
    b = write(tmp_path / "b.jsonl", [*edited, talk(200)])
    found = compare(a, b, SplitConfig())
    assert found.added == ("row-200",)
    assert found.removed == ("row-0", "row-1", "row-2")
    assert found.edited == {"row-3": ("messages",), "row-8": ("group", "topic")}
    assert not found.same
    assert found.before.roots["all"] == digest_rows(load_rows(a, check_conversation))
    dealt = deal(load_rows(b, check_conversation), DataConfig(source="b.jsonl"))
    assert {name: found.after.roots[name] for name in dealt} == {name: part.digest for name, part in dealt.items()}
    assert {name: found.after.count(name) for name in dealt} == {name: len(part.rows) for name, part in dealt.items()}


def test_a_changed_nested_turn_changes_one_split_alone(tmp_path):
    rows = [talk(n) for n in range(100)]
    a = write(tmp_path / "a.jsonl", rows)
    rows[7]["messages"][1]["content"] = "yes!"
    found = compare(a, write(tmp_path / "b.jsonl", rows), SplitConfig())
    changed = {name for name in found.before.roots if found.before.roots[name] != found.after.roots[name]}
    assert changed == {"all", found.after.rows["row-7"][1]}


def test_where_a_row_stands_and_in_what_shape_is_no_change(tmp_path):
    rows = [{"id": str(n), "prompt": f"{n}?", "completion": "yes"} for n in range(9)]
    a = write(tmp_path / "a.jsonl", rows)
    talks = [
        {"id": r["id"], "conversations": [{"from": "human", "value": r["prompt"]}, {"from": "gpt", "value": "yes"}]}
        for r in rows
    ]
    assert compare(a, write(tmp_path / "b.jsonl", talks)).before.roots == compare(a, tmp_path / "b.jsonl").after.roots
    turned = compare(a, write(tmp_path / "c.jsonl", talks[::-1]))
    assert turned.same
    assert turned.before.roots != turned.after.roots


def test_rows_without_ids_are_known_by_their_content(tmp_path):
    row = {"prompt": "a", "completion": "b"}
    a = write(tmp_path / "a.jsonl", [row, row, {**row, "completion": "c"}])
    b = write(tmp_path / "b.jsonl", [{**row, "completion": "c"}, row])
    found = compare(a, b)
    assert [len(found.removed), len(found.added)] == [1, 0]
    assert found.removed[0].endswith("~2")


def random_row(random):
    """A conversation that may lack an id, a group or both."""
    row = {"prompt": f"{random.choice('abcdefgh')} {random.randrange(50)}", "completion": str(random.randrange(9))}
    if random.random() < 0.5:
        row["group"] = f"g{random.randrange(30)}"
    if random.random() < 0.5:
        row["id"] = f"id-{random.randrange(10**9)}"
    return row


@pytest.mark.parametrize("seed", range(20))
def test_adding_rows_never_moves_an_old_row_to_another_split(tmp_path, seed):
    chance = random.Random(seed)
    old = [random_row(chance) for _ in range(150)]
    new = [*old, *(random_row(chance) for _ in range(150))]
    chance.shuffle(new)
    shares = [chance.random() for _ in range(4)]
    train, tune, holdout = (share / sum(shares) for share in shares[:3])
    split = SplitConfig(train=train, tune=tune, holdout=holdout, bench=1 - train - tune - holdout)
    found = compare(write(tmp_path / "a.jsonl", old), write(tmp_path / "b.jsonl", new), split)
    assert found.moved == {}
    assert found.removed == ()
    assert set(found.before.rows) < set(found.after.rows)
    prompts: dict[str, set[str]] = {}
    for row in DataReference(tmp_path / "b.jsonl").rows():
        if row["group"].startswith("prompt-"):
            prompts.setdefault(row["messages"][0]["content"], set()).add(found.after.rows[row["id"]][1])
    assert prompts
    assert all(len(splits) == 1 for splits in prompts.values())


def run(*arguments):
    return CliRunner().invoke(main, list(arguments))


def test_the_command_lists_all_as_json_and_a_few_as_text(tmp_path, root):
    experiment = root / "experiments/smoke.yaml"
    rows = [json.loads(line) for line in (root / "experiments/smoke/conversations.jsonl").read_text().splitlines()]
    extra = [{**rows[0], "id": f"new-{n}"} for n in range(9)]
    b = write(tmp_path / "b.jsonl", [*rows[1:], *extra])
    done = run("data", "diff", str(experiment), str(b), "--json")
    assert done.exit_code == 0
    value = json.loads(done.stdout)
    assert value["added"] == [f"new-{n}" for n in range(9)]
    assert value["removed"] == [rows[0]["id"]]
    assert (value["edited"], value["moved"], value["same"]) == ({}, {}, False)
    assert value["b"]["rows"] == 88
    assert set(value["a"]["sha256"]) == {"all", "train", "tune", "holdout", "bench"}
    text = run("data", "diff", str(experiment), str(b)).stdout
    assert "+ 9 added: new-0, new-1, new-2, new-3, new-4 and 4 more" in text
    assert "unchanged" in text
    assert "the same rows" in run("data", "diff", str(experiment), str(experiment)).stdout


def test_a_repeated_id_is_refused_with_both_lines(tmp_path):
    path = write(tmp_path / "a.jsonl", [talk(1), talk(2), talk(1, answer="no")])
    with pytest.raises(DataError, match=r"a.jsonl:3: id: already used on line 1; ids must be unique"):
        compare(path, path)
    done = run("data", "diff", str(path), str(path))
    assert done.exit_code == 2
    assert len(done.stderr.split("\n")) <= 3
