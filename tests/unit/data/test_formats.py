"""Every shape and kind of file gives the same canonical rows."""

import csv
import json
import pathlib

import pytest

from tunesmith.config.experiment import DataFormat
from tunesmith.data.conversion import FORMATS, detect
from tunesmith.data.dataset import load_rows
from tunesmith.data.formats import check_conversation, check_kto, check_preference, check_question
from tunesmith.data.rows import stream_rows
from tunesmith.data.sources import FolderSource, find_source
from tunesmith.errors import DataError

USER, ANSWER, OTHER = "Why is the sky blue?", "Air scatters blue light most.", "It mirrors the sea."
SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": USER}
SAID, WORSE = {"role": "assistant", "content": ANSWER}, {"role": "assistant", "content": OTHER}
TALK = {"messages": [SYSTEM, ASKED, SAID]}
PAIR = {"prompt": [ASKED], "chosen": [SAID], "rejected": [WORSE]}
UNPAIRED = {"prompt": [ASKED], "completion": [WORSE], "label": False}

SHAPES = {
    "messages": ("messages", {"messages": [SYSTEM, ASKED, SAID]}, TALK),
    "sharegpt": (
        "sharegpt",
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": USER},
                {"from": "gpt", "value": ANSWER},
            ]
        },
        TALK,
    ),
    "sharegpt with a system field": (
        "sharegpt",
        {"system": "Be brief.", "conversations": [{"from": "human", "value": USER}, {"from": "gpt", "value": ANSWER}]},
        TALK,
    ),
    "alpaca": (
        "alpaca",
        {"system": "Be brief.", "instruction": "Why is", "input": "the sky blue?", "output": ANSWER},
        {"messages": [SYSTEM, {"role": "user", "content": "Why is\n\nthe sky blue?"}, SAID]},
    ),
    "alpaca without input": (
        "alpaca",
        {"system": "Be brief.", "instruction": USER, "input": "", "output": ANSWER},
        TALK,
    ),
    "alpaca with earlier turns": (
        "alpaca",
        {"instruction": USER, "output": ANSWER, "history": [["Hi", "Ho"]]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, ASKED, SAID]},
    ),
    "prompt and completion": ("prompt_completion", {"system": "Be brief.", "prompt": USER, "completion": ANSWER}, TALK),
    "prompt and completion as messages": ("prompt_completion", {"prompt": [SYSTEM, ASKED], "completion": [SAID]}, TALK),
    "preference with a prompt": ("preference", {"prompt": USER, "chosen": ANSWER, "rejected": OTHER}, PAIR),
    "preference as messages": ("preference", PAIR, PAIR),
    "preference as full conversations": ("preference", {"chosen": [ASKED, SAID], "rejected": [ASKED, WORSE]}, PAIR),
    "preference with prompt and full conversations": (
        "preference",
        {"prompt": USER, "chosen": [ASKED, SAID], "rejected": [ASKED, WORSE]},
        PAIR,
    ),
    "preference that differs early": (
        "preference",
        {"chosen": [ASKED, SAID, ASKED, SAID], "rejected": [ASKED, WORSE, ASKED, WORSE]},
        {"prompt": [ASKED], "chosen": [SAID, ASKED, SAID], "rejected": [WORSE, ASKED, WORSE]},
    ),
    "preference that differs nowhere": (
        "preference",
        {"chosen": [ASKED, SAID], "rejected": [ASKED, SAID]},
        {"prompt": [ASKED], "chosen": [SAID], "rejected": [SAID]},
    ),
    "kto": ("kto", {"prompt": USER, "completion": OTHER, "label": False}, UNPAIRED),
    "kto as messages": ("kto", UNPAIRED, UNPAIRED),
    "questions": (
        "questions",
        {"question": USER, "choices": ["a", "b"], "answer": 1},
        {"question": USER, "choices": ["a", "b"], "answer": 1},
    ),
}
CHECKS = {"preference": check_preference, "kto": check_kto, "questions": check_question}


def only(rows):
    (row,) = rows
    return row


def write(path: pathlib.Path, rows: list[dict]) -> pathlib.Path:
    """Write rows as the kind of file that the path's ending names."""
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix in {".csv", ".tsv"}:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            header = list(dict.fromkeys(key for row in rows for key in row))
            writer = csv.DictWriter(file, header, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            for row in rows:
                writer.writerow({k: json.dumps(v) if isinstance(v, list | bool) else v for k, v in row.items()})
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2, ensure_ascii=False), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def content(row):
    return {key: value for key, value in row.items() if key not in {"id", "group", "provenance"}}


@pytest.mark.parametrize(("name", "row", "expected"), SHAPES.values(), ids=SHAPES.keys())
def test_each_shape_is_detected_and_converted(tmp_path, name, row, expected):
    assert detect(row, where="here").name == name
    path = write(tmp_path / "rows.jsonl", [{**row, "topic": "physics"}])
    got = only(load_rows(path, CHECKS.get(name, check_conversation)))
    assert content(got) == {**expected, "topic": "physics"}
    assert got["provenance"] == {"file": str(path), "line": 1}


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json", "csv", "tsv", "parquet"])
@pytest.mark.parametrize(("name", "row", "expected"), SHAPES.values(), ids=SHAPES.keys())
def test_each_kind_of_file_gives_the_same_row(tmp_path, ending, name, row, expected):
    if ending == "parquet":
        row = {key: value or None for key, value in row.items()} if name == "alpaca" else row
    path = write(tmp_path / f"rows.{ending}", [row])
    got = only(load_rows(path, CHECKS.get(name, check_conversation)))
    assert content(got) == expected
    plain = only(load_rows(write(tmp_path / "plain.jsonl", [row]), CHECKS.get(name, check_conversation)))
    assert (got["id"], got["group"]) == (plain["id"], plain["group"])


def test_the_config_knows_the_formats():
    assert set(DataFormat.__args__) == {"auto", *FORMATS}


def test_a_named_format_overrules_the_keys(tmp_path):
    turns = [{"from": "human", "value": USER}, {"from": "gpt", "value": "!"}]
    both = {"messages": [ASKED, SAID], "conversations": turns}
    path = write(tmp_path / "rows.jsonl", [both])
    assert only(stream_rows(path))["messages"][1] == SAID
    assert only(stream_rows(path, format="sharegpt"))["messages"][1]["content"] == "!"


def test_ids_and_groups_that_are_given_are_kept_and_numbers_become_text(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{**TALK, "id": 7, "group": "g", "customer": 3}])
    row = only(stream_rows(path))
    assert (row["id"], row["group"]) == ("7", "g")
    assert only(stream_rows(path, group_by="customer"))["group"] == "3"
    with pytest.raises(DataError, match=r"rows.jsonl:1: region: is missing; data.split.by says"):
        list(stream_rows(path, group_by="region"))


def test_an_id_comes_from_what_the_row_says_alone(tmp_path):
    rows = [
        {"prompt": USER, "completion": ANSWER},
        {"prompt": USER, "completion": ANSWER, "topic": "physics"},
        {"prompt": USER, "completion": OTHER},
    ]
    plain, tagged, other = stream_rows(write(tmp_path / "rows.jsonl", rows))
    assert plain["id"] == tagged["id"] != other["id"]
    assert plain["group"] == tagged["group"] == other["group"]
    copy, again, _ = load_rows(tmp_path / "rows.jsonl", check_conversation)
    assert again["id"] == f"{copy['id']}~2"


def test_a_group_is_the_same_prompt_whatever_its_case_and_spacing(tmp_path):
    rows = [{"prompt": USER, "completion": "a"}, {"prompt": f"  {USER.upper()}", "completion": "b"}]
    one, two = stream_rows(write(tmp_path / "rows.jsonl", rows))
    assert one["group"] == two["group"]


def test_provenance_that_a_row_already_has_is_kept(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{**TALK, "provenance": {"file": "raw.jsonl", "line": 9}}])
    assert only(stream_rows(path))["provenance"] == {"file": "raw.jsonl", "line": 9}


def test_a_folder_of_files_gives_its_split_in_order_with_lines(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for name, texts in {"train-1": "ab", "train-2": "c", "test": "d"}.items():
        write(folder / f"{name}.jsonl", [{"prompt": text, "completion": text} for text in texts])
    source = find_source("set", folder=tmp_path)
    rows = list(stream_rows(source))
    assert [row["messages"][0]["content"] for row in rows] == ["a", "b", "c"]
    assert rows[1]["provenance"] == {"file": str(folder / "train-1.jsonl"), "line": 2}
    assert [r["messages"][0]["content"] for r in stream_rows(find_source("set:test", folder=tmp_path))] == ["d"]
    with pytest.raises(DataError, match="has no split dev; name one of"):
        list(stream_rows(FolderSource(folder, "dev")))


def test_a_data_set_that_the_library_saved(tmp_path):
    import datasets

    rows = [{"prompt": USER, "chosen": ANSWER, "rejected": OTHER, "note": None}, {**PAIR, "prompt": "b"}]
    texts = datasets.Dataset.from_list(rows[:1])
    texts.save_to_disk(str(tmp_path / "one"))
    row = only(stream_rows(find_source("one", folder=tmp_path)))
    assert content(row) == PAIR
    assert row["provenance"] == {"file": str(tmp_path / "one"), "row": 1}
    datasets.DatasetDict({"test": texts}).save_to_disk(str(tmp_path / "many"))
    assert content(only(stream_rows(find_source("many:test", folder=tmp_path)))) == PAIR
    with pytest.raises(DataError, match="many: has no split train; name one of test"):
        list(stream_rows(find_source("many", folder=tmp_path)))


def test_hub_references(tmp_path):
    assert str(find_source("owner/name", folder=tmp_path)) == "hub:owner/name:train"
    assert str(find_source("hub:owner/name/sub:test@main", folder=tmp_path)) == "hub:owner/name/sub:test@main"
    assert find_source("owner/name.jsonl", folder=tmp_path) == tmp_path / "owner/name.jsonl"
    with pytest.raises(DataError, match="hub:owner: a hub data set is named"):
        find_source("hub:owner", folder=tmp_path)
    with pytest.raises(DataError, match="hub:owner/name:train: neither a file here nor a data set"):
        list(stream_rows(find_source("owner/name", folder=tmp_path)))


def test_parquet_values_that_json_lacks(tmp_path):
    import datetime

    path = tmp_path / "rows.parquet"
    rows = [{**TALK, "day": datetime.date(2026, 1, 2), "score": float("nan")}, {**TALK, "score": 1.5}]
    write(path, rows)
    one, two = stream_rows(path)
    assert (one["day"], "score" in one, "day" in two, two["score"]) == ("2026-01-02", False, False, 1.5)
    write(path, [{**TALK, "image": b"\x89PNG"}])
    with pytest.raises(DataError, match=r"rows.parquet: row 1: image: holds bytes; only"):
        list(stream_rows(path))


@pytest.mark.parametrize("text", ['[{"a": 1}, {"a": 2}]', '{"a": 1}\n{"a": 2}', '\ufeff[\n{"a":1},\n\n{"a":\n2}\n]\n'])
def test_json_lists_and_objects_in_a_row(tmp_path, text):
    from tunesmith.data.readers.arrays import read_json

    (tmp_path / "rows.json").write_text(text, encoding="utf-8")
    assert [row for _, row in read_json(tmp_path / "rows.json")] == [{"a": 1}, {"a": 2}]


def test_json_is_read_across_chunks_whatever_they_cut(tmp_path, monkeypatch):
    from tunesmith.data.readers import arrays

    nested = [1.5e-3, True, None, {"y": "\U0001f600"}]
    rows = [{"n": n, "text": 'é\\\n"]},[{' * (n % 7), "x": nested} for n in range(60)]
    path = tmp_path / "rows.json"
    for indent in (None, 1):
        path.write_text(json.dumps(rows, indent=indent, ensure_ascii=bool(indent)), encoding="utf-8")
        for chunk in (1, 2, 3, 7, 64, 10_000):
            monkeypatch.setattr(arrays, "CHUNK", chunk)
            found = list(arrays.read_json(path))
            assert [row for _, row in found] == rows
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all(lines[place.number - 1].strip() == "{" for place, _ in found)


def test_csv_places_are_the_lines_on_which_records_begin(tmp_path):
    (tmp_path / "rows.csv").write_text('prompt,completion\n"a\nb",c\nd,e\n', encoding="utf-8")
    rows = list(stream_rows(tmp_path / "rows.csv"))
    assert [row["provenance"]["line"] for row in rows] == [2, 4]
    assert rows[0]["messages"][0]["content"] == "a\nb"
