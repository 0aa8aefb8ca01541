"""Labels: what is refused of an export, and what an import never touches."""

import json
import subprocess
import sys

import pytest
from tests.annotations import (
    SECRET,
    annotate,
    damaged,
    export,
    run,
    take,
    talk,
    write,
)
from tests.conftest import ROOT, environment

from tunesmith.data.labels.transfer import import_labels
from tunesmith.errors import DataError


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda task, data: data.update(row="../../etc/passwd"), "row: is a text; paths and links are never followed"),
        (lambda task, data: data.update(row="/data/local-files/?d=../x"), "row: is a text; paths and links are never"),
        (lambda task, data: data.update(row="http://127.0.0.1:9/x"), "row: is a text; paths and links are never"),
        (lambda task, data: data.pop("row"), "row: is missing; import tasks that `labels export` wrote"),
        (lambda task, data: data["row"].update(group="other"), "row: was changed after the export"),
        (lambda task, data: data["row"]["messages"][0].update(content="x"), "row: was changed after the export"),
        (lambda task, data: data.update(row_id="../row-1"), "row: has no id and group, or another id than row_id"),
    ],
)
def test_a_row_that_is_not_ours_is_refused_and_nothing_is_written(tmp_path, tool, damage, message):
    with pytest.raises(DataError) as caught:
        take(tmp_path, damaged(tmp_path, tool, damage), tool)
    where = f"{tmp_path / 'export.json'}:1: {'data: ' if tool == 'json' else ''}"
    assert str(caught.value).startswith(where + message)
    assert SECRET not in str(caught.value).removeprefix(where)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".xml")) == [
        "export.json",
        "rows.jsonl",
        "tasks.json",
    ]


@pytest.mark.parametrize(
    ("tool", "damage", "message"),
    [
        ("json", lambda t, d: t.update(annotations=None), ":1: annotations: must be a list; export as JSON"),
        ("json", lambda t, d: t.update(annotations=[3]), ":1: annotations[0]: must be an object with a list in result"),
        ("json", lambda t, d: t["annotations"][0].update(result=[3]), ":1: annotations[0].result[0]: must be"),
        (
            "json",
            lambda t, d: t["annotations"][0]["result"][0]["value"].update(choices=["keep", "drop"]),
            ":1: annotations[0]: verdict: at most one text is expected",
        ),
        (
            "json",
            lambda t, d: t["annotations"][0]["result"][0]["value"].update(choices=[SECRET]),
            ":1: annotations[0]: verdict: must be one of keep, fix, drop",
        ),
        ("json", lambda t, d: t.update(data=[]), ":1: data: must be an object"),
        ("json-min", lambda t, d: t.update(verdict=SECRET), ":1: verdict: must be one of keep, fix, drop"),
        ("json-min", lambda t, d: t.update(rewrite={"a": SECRET}), ":1: rewrite: at most one text is expected"),
        ("prodigy", lambda t, d: t.update(answer=SECRET), ":1: answer: must be accept, reject or ignore"),
        ("prodigy", lambda t, d: t.update(accept=["keep", "drop"]), ":1: accept: at most one option is expected"),
        ("prodigy", lambda t, d: t.update(user_input=[SECRET]), ":1: rewrite: must be a text"),
    ],
)
def test_an_annotation_that_makes_no_sense_is_named(tmp_path, tool, damage, message):
    with pytest.raises(DataError) as caught:
        take(tmp_path, damaged(tmp_path, tool, damage), tool)
    rest = str(caught.value).removeprefix(str(tmp_path / "export.json"))
    assert rest.startswith(message)
    assert SECRET not in rest
    assert not (tmp_path / "labelled.jsonl").exists()


def test_two_tasks_with_one_id_and_different_rows_are_refused(tmp_path):
    one = export(tmp_path, [talk(0)], "json")[0]
    two = export(tmp_path, [talk(0, "another answer")], "json")[0]
    (tmp_path / "export.json").write_text(json.dumps([{**task, "annotations": []} for task in (one, two)]))
    with pytest.raises(DataError, match=r"row: another task carries a different row with this id"):
        take(tmp_path, tmp_path / "export.json", "json")


def test_what_was_there_stays_when_an_import_fails_half_way(tmp_path, monkeypatch):
    tasks = export(tmp_path, [talk(n) for n in range(3)], "json")
    path = annotate(tmp_path, tasks, {f"row-{n}": [(1, "keep", "")] for n in range(3)}, "json")
    (tmp_path / "labelled.jsonl").write_text("before\n")
    before = {file.name for file in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            take(tmp_path, path, "json")
    assert (tmp_path / "labelled.jsonl").read_text() == "before\n"
    assert {file.name for file in tmp_path.iterdir()} == before
    with pytest.raises(DataError, match="--out is the export itself"):
        import_labels(path, tool="label-studio", out=path)


WATCHED = """
import json, pathlib, sys
from tunesmith.data.labels.transfer import import_labels
folder = pathlib.Path(sys.argv[1])
def run():
    return import_labels(folder / "export.json", tool="label-studio", out=folder / "labelled.jsonl")
run()
opened = []
def watch(event, arguments):
    if event.startswith(("socket.", "urllib.", "http.", "subprocess.", "os.system")):
        raise RuntimeError(f"{event} during an import")
    if event == "open" and isinstance(arguments[0], str):
        opened.append(arguments[0])
sys.addaudithook(watch)
found = run()
print(json.dumps([found.counts["written"], sorted(set(opened))]))
"""


def test_an_import_opens_no_connection_and_no_file_but_its_own(tmp_path):
    """Watched through the interpreter's audit events, which C code raises too; links in the export are bait."""
    bait = "![x](http://127.0.0.1:9/x.png) file:///etc/passwd ../../secret.jsonl"
    links = {"image": "http://127.0.0.1:9/y.png", "file": "../../secret.jsonl"}
    rows = [{**talk(n, f"{bait} {n}"), **links} for n in range(4)]
    tasks = export(tmp_path, rows, "json")
    for task in tasks:
        task["data"] |= {"file_upload": "../../secret.jsonl", "storage_filename": "s3://bucket/../x"}
    said = {f"row-{n}": [(1, "keep", ""), (2, "drop" if n else "keep", bait)] for n in range(4)}
    annotate(tmp_path, tasks, said, "json")
    command = [sys.executable, "-c", WATCHED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    _, opened = json.loads(done.stdout)
    assert opened
    assert all(path.startswith(str(tmp_path)) for path in opened), opened
    names = {path.removeprefix(f"{tmp_path}/") for path in opened if path != str(tmp_path)}
    assert {name for name in names if not name.startswith(".labelled.jsonl-")} == {"export.json"}


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ("[1]", "scores.json: a row must be an object, not list"),
        ('{"row-1": "high"}', "scores.json: 1 of 1 values are not finite numbers"),
        ('{"row-1": 1e999}', "scores.json: 1 of 1 values are not finite numbers"),
        ('{"gone": 1}', "no row to label; no id in --scores is among them"),
        (None, "scores.json: cannot be read"),
    ],
)
def test_scores_that_cannot_be_used_are_refused(tmp_path, scores, message):
    rows = write(tmp_path / "rows.jsonl", [talk(n) for n in range(5)])
    if scores:
        (tmp_path / "scores.json").write_text(scores)
    tasks = tmp_path / "tasks.json"
    arguments = ("labels", "export", str(rows), "--to", "prodigy", "--out", str(tasks))
    done = run(*arguments, "--scores", str(tmp_path / "scores.json"))
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not tasks.exists()
    assert "--near: needs --scores" in run(*arguments, "--near", "1").stderr
    assert "write runs:/RUN_ID/ARTIFACT" in run(*arguments, "--scores", "runs:/abc").stderr
