"""What curation does about what the checks find, and its undoing."""

import json

import pytest

from tunesmith.audit.curate import curate, ledger_lines, put_back, restore, write_curated
from tunesmith.errors import DataError


def spoilt_rows(few):
    """The few rows, and one of each kind of damage."""
    base = next(r for r in few.rows if r["policy"] == "street-leak")
    question, answer = base["messages"][1]["content"], base["messages"][-1]["content"]
    n = next(n for n, split in enumerate(few.splits) if split == "holdout")

    def with_turns(name, *contents):
        turns = zip(("system", "user", "assistant"), (base["messages"][0]["content"], *contents), strict=True)
        return {**base, "id": name, "messages": [{"role": role, "content": content} for role, content in turns]}

    damaged = [
        {**base, "id": "copy"},
        with_turns("near", f"Hello! {question.lower()}", answer),
        with_turns("empty", question, ""),
        with_turns(
            "private", f"Another matter: who has read mail from joe@example.com at the office? {answer[:9]}", answer
        ),
        with_turns("leak", few.rows[n]["messages"][1]["content"], answer),
    ]
    return few.keep([*few.rows, *damaged], [*few.splits, *["train"] * len(damaged)])


def test_curation_keeps_the_sound_rows_and_changes_nothing_the_second_time(few):
    spoilt = spoilt_rows(few)
    curated = curate(spoilt)
    assert {fate.row["id"] for fate in curated.fates.values() if fate.dropped} == {"copy", "near", "empty", "leak"}
    assert [fate.row["id"] for fate in curated.fates.values() if not fate.dropped] == ["private"]
    assert [r["id"] for r in curated.kept] == [*(r["id"] for r in few.rows), "private"]
    assert "joe@" not in json.dumps(curated.kept)
    split = dict(zip((r["id"] for r in spoilt.rows), spoilt.splits, strict=True))
    again = curate(spoilt.keep(curated.kept, [split[r["id"]] for r in curated.kept]))
    assert again.fates == {}
    assert again.kept == curated.kept
    assert curate(spoilt) == curated


def test_curation_is_undone_by_its_ledger(few, tmp_path):
    spoilt = spoilt_rows(few)
    curated = curate(spoilt)
    kept, restored = tmp_path / "kept.jsonl", tmp_path / "restored.jsonl"
    ledger = write_curated(curated, kept)
    assert restore(kept, ledger, restored) == len(spoilt.rows)
    assert [json.loads(line) for line in restored.read_text().splitlines()] == [dict(r) for r in spoilt.rows]
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert {line["id"]: line["reasons"][0].partition(":")[0] for line in lines[1:]} == {
        "copy": "duplicates",
        "near": "near duplicates",
        "empty": "empty turns",
        "private": "personal data",
        "leak": "holdout in train",
    }
    kept.write_text(kept.read_text().replace("street", "strait", 1))
    with pytest.raises(DataError, match=r"kept.jsonl: is not what the ledger .* was written for"):
        restore(kept, ledger, restored)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.jsonl", "kept.ledger.jsonl", "restored.jsonl"]


def test_a_ledger_that_lacks_rows_is_refused(few):
    curated = curate(spoilt_rows(few))
    head, *entries = ledger_lines(curated)
    with pytest.raises(DataError, match="names fewer rows than are missing"):
        put_back(curated.kept, entries[1:], head["source_rows"], where="ledger")


def test_nothing_is_left_behind_when_writing_fails(few, tmp_path, monkeypatch):
    curated = curate(spoilt_rows(few))
    monkeypatch.setattr("tunesmith.audit.curate.json.dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_curated(curated, tmp_path / "kept.jsonl")
    assert list(tmp_path.iterdir()) == []
