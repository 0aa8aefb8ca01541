"""Labels: the rows that go out, and every way in which judgements come back."""

import json
import random
import subprocess
import sys

import pytest
from click.testing import CliRunner
from tests.conftest import ROOT, environment

from tunesmith.cli import main
from tunesmith.config.experiment import SplitConfig
from tunesmith.data.dataset import load_rows
from tunesmith.data.digest import digest_rows
from tunesmith.data.formats import check_conversation, check_preference
from tunesmith.data.labels.task import Judgement, exported_row
from tunesmith.data.labels.transfer import Choice, export_labels, import_labels
from tunesmith.data.labels.verdicts import agreement, decide, latest
from tunesmith.data.split import split_of
from tunesmith.data.versions import DataReference, diff
from tunesmith.errors import DataError

FORMATS = ("json", "json-min", "prodigy")
SECRET = "hunter2"


def talk(n, answer=None):
    turns = [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": answer or f"It is {n}."}]
    return {"id": f"row-{n}", "group": f"g-{n}", "topic": "numbers", "messages": turns}


def pair(n):
    say = [[{"role": "assistant", "content": f"{word} {n}"}] for word in ("good", "bad")]
    prompt = [{"role": "user", "content": f"Say {n}"}]
    return {"id": f"pair-{n}", "group": f"g-{n}", "prompt": prompt, "chosen": say[0], "rejected": say[1]}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(params=FORMATS)
def tool(request):
    return request.param


def export(folder, rows, tool, *, pairwise=False):
    """Tasks as the tool would receive them."""
    reference = DataReference(write(folder / "rows.jsonl", rows))
    name = "prodigy" if tool == "prodigy" else "label-studio"
    choice = Choice(count=len(rows), pairwise=pairwise)
    export_labels(reference, choice, tool=name, out=folder / "tasks.json")
    text = (folder / "tasks.json").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if tool == "prodigy" else json.loads(text)


def annotate(folder, tasks, said, tool):
    """An export of the tool in which `said` maps a row to (annotator, verdict, rewrite) triples.

    A verdict of `cancel` is Label Studio's skip and Prodigy's ignore; an empty one is sent without a choice.
    The shapes are those that Label Studio 1.23 gave (see tests/integration/test_label_studio.py).
    """
    out = [made for task in tasks for made in ANNOTATED[tool](task, said)]
    path = folder / "export.json"
    text = "".join(json.dumps(task) + "\n" for task in out) if tool == "prodigy" else json.dumps(out)
    path.write_text(text, encoding="utf-8")
    return path


def results(verdict, rewrite):
    made = []
    if verdict in {"a", "b"}:
        side = {"a": "left", "b": "right"}[verdict]
        made.append({"from_name": "preference", "to_name": "answer_a", "type": "pairwise", "value": {"selected": side}})
    elif verdict:
        name = "tie" if verdict == "tie" else "verdict"
        made.append({"from_name": name, "to_name": "dialogue", "type": "choices", "value": {"choices": [verdict]}})
    if rewrite:
        made.append({"from_name": "rewrite", "to_name": "dialogue", "type": "textarea", "value": {"text": [rewrite]}})
    return made


def whole(task, said):
    annotations = [
        {
            "id": n,
            "completed_by": annotator,
            "was_cancelled": verdict == "cancel",
            "ground_truth": False,
            "updated_at": f"2026-01-01T00:00:{n:02}Z",
            "result": results("" if verdict == "cancel" else verdict, rewrite),
        }
        for n, (annotator, verdict, rewrite) in enumerate(said.get(task["data"]["row_id"], ()))
    ]
    yield {"id": 1, "annotations": annotations, "drafts": [], "predictions": [], "data": task["data"], "meta": {}}


def minimal(task, said):
    if task["data"]["row_id"] not in said:
        yield {**task["data"], "id": 1, "annotator": None, "annotation_id": None}
    for n, (annotator, verdict, rewrite) in enumerate(said.get(task["data"]["row_id"], ())):
        if verdict != "cancel":
            made = {**task["data"], "id": 1, "annotator": annotator, "annotation_id": n, "lead_time": 1.5}
            for result in results(verdict, rewrite):
                value = result["value"]
                made[result["from_name"]] = [value] if "selected" in value else next(iter(value.values()))[0]
            yield {**made, "updated_at": f"2026-01-01T00:00:{n:02}Z"}


def prodigy(task, said):
    judged = said.get(task["row_id"], ())
    for n, (annotator, verdict, rewrite) in enumerate(judged):
        accepted = {"answer": "accept", "accept": [verdict] * bool(verdict)}
        given = {"answer": "ignore"} if verdict == "cancel" else accepted
        session = {"_annotator_id": f"set-{annotator}", "_timestamp": 1_700_000_000 + n, "_task_hash": 1}
        yield {**task, **given, **session, **({"user_input": rewrite} if rewrite else {})}
    if not judged:
        yield task


ANNOTATED = {"json": whole, "json-min": minimal, "prodigy": prodigy}


def take(folder, path, tool):
    name = "prodigy" if tool == "prodigy" else "label-studio"
    return import_labels(path, tool=name, out=folder / "labelled.jsonl")


def test_conversations_go_out_and_come_back(tmp_path, tool):
    rows = [talk(n) for n in range(12)]
    tasks = export(tmp_path, rows, tool)
    said = {
        "row-0": [(1, "keep", "It is 0.")],
        "row-1": [(1, "fix", "It is one.")],
        "row-2": [(1, "drop", "")],
        "row-3": [(1, "cancel", "")],
        "row-4": [(1, "", "")],
        "row-5": [(1, "fix", "")],
        "row-6": [(1, "keep", ""), (2, "drop", "")],
        "row-7": [(1, "fix", "seven"), (2, "fix", " seven\n"), (3, "keep", "")],
        "row-8": [(1, "fix", "eight"), (2, "fix", "ate")],
        "row-9": [(1, "drop", ""), (1, "keep", "")],
        "row-10": [(1, "keep", "It is ten.")],
    }
    found = take(tmp_path, annotate(tmp_path, tasks, said, tool), tool)
    written = load_rows(tmp_path / "labelled.jsonl", check_conversation)
    answers = {row["id"]: row["messages"][-1]["content"] for row in written}
    untouched = {"row-0": "It is 0.", "row-9": "It is 9."}
    assert answers == {**untouched, "row-1": "It is one.", "row-7": "seven", "row-10": "It is ten."}
    assert found.digest == digest_rows(written)
    assert {v.row_id: v.conflict for v in found.conflicts} == {
        "row-6": "verdicts differ: 1 drop, 1 keep",
        "row-8": "2 different rewrites",
    }
    n = dict(found.counts)
    cancelled = {"json": "cancelled", "prodigy": "skipped"}.get(tool)
    assert (n["judged"], n["empty"], n["unfinished"], n["superseded"]) == (13, 1, 1, 1)
    assert (n["annotated_rows"], n["written"], n["dropped"], n["conflicts"]) == (8, 5, 1, 2)
    if cancelled:
        assert (n["exported"], n["returned"], n["missing"], n["unannotated"], n[cancelled]) == (12, 12, 0, 1, 1)
    else:
        assert (n["exported"], n["returned"], n["missing"], n["unannotated"]) == (12, 11, 1, 1)
    reconciles(n)
    old = {row["id"]: row for row in rows}
    changes = diff(DataReference(tmp_path / "rows.jsonl"), DataReference(tmp_path / "labelled.jsonl"))
    assert changes.edited["row-1"] == ("labels", "messages")
    assert changes.edited["row-0"] == ("labels",)
    record = next(row for row in written if row["id"] == "row-7")["labels"]
    assert record["row_sha256"] == digest_of_exported(old["row-7"])
    assert (record["verdict"], record["annotators"]) == ("fix", 3)


def digest_of_exported(row):
    from tunesmith.data.digest import row_digest

    return row_digest(exported_row(row)).hex()


def reconciles(n):
    """The sums that the counts promise."""
    assert n["exported"] == n["returned"] + n["missing"]
    assert n["annotations"] == sum(n[k] for k in ("judged", "cancelled", "skipped", "empty", "unfinished"))
    assert n["annotated_rows"] == sum(n[k] for k in ("written", "dropped", "tied", "conflicts"))


def test_pairs_go_out_blind_and_come_back(tmp_path, tool):
    rows = [pair(n) for n in range(40)]
    tasks = export(tmp_path, rows, tool, pairwise=True)
    data = [task if tool == "prodigy" else task["data"] for task in tasks]
    assert all("chosen" not in json.dumps(task) for task in data)
    firsts = [task["row"]["answers"][0][0]["content"].split()[0] for task in data]
    assert 10 < firsts.count("good") < 30
    sides = {task["row_id"]: "a" if first == "good" else "b" for task, first in zip(data, firsts, strict=True)}
    other = {"a": "b", "b": "a"}
    said = {key: [(1, side, ""), (2, side, "")] for key, side in sides.items()}
    said["pair-0"] = [(1, other[sides["pair-0"]], "")]
    said["pair-1"] = [(1, "tie", "")]
    said["pair-2"] = [(1, "a", ""), (2, "b", "")]
    said["pair-3"] = [(1, "cancel", "")]
    found = take(tmp_path, annotate(tmp_path, tasks, said, tool), tool)
    written = {row["id"]: row for row in load_rows(tmp_path / "labelled.jsonl", check_preference)}
    assert set(written) == {row["id"] for row in rows} - {"pair-1", "pair-2", "pair-3"}
    assert written["pair-0"]["chosen"][0]["content"] == "bad 0"
    assert all(written[f"pair-{n}"]["chosen"][0]["content"] == f"good {n}" for n in range(4, 40))
    assert (found.counts["tied"], found.counts["conflicts"], found.counts["written"]) == (1, 1, 37)
    assert 0.8 < found.alpha < 1
    reconciles(found.counts)


@pytest.mark.parametrize("seed", range(5))
def test_counts_reconcile_whatever_was_said(tmp_path, tool, seed):
    chance = random.Random(seed)
    rows = [talk(n) for n in range(30)]
    tasks = export(tmp_path, rows, tool)
    said = {
        row["id"]: [
            (chance.randrange(3), chance.choice(["keep", "fix", "drop", "cancel", ""]), chance.choice(["", "x", "y"]))
            for _ in range(chance.randrange(5))
        ]
        for row in rows
    }
    found = take(tmp_path, annotate(tmp_path, tasks, said, tool), tool)
    reconciles(found.counts)
    if tool != "json-min":
        assert found.counts["annotations"] == sum(map(len, said.values()))
    assert len((tmp_path / "labelled.jsonl").read_text().splitlines()) == found.counts["written"]


def test_the_latest_of_one_annotator_counts_and_ground_truth_overrules():
    first, second = Judgement("r", "1", "keep", when="2"), Judgement("r", "1", "drop", when="1")
    assert latest([first, second]) == {"r": [first]}
    voices = [Judgement("r", str(n), "keep") for n in range(3)]
    assert decide(voices).verdict == "keep"
    truth = Judgement("r", "9", "drop", decisive=True)
    assert decide([*voices, truth]).verdict == "drop"
    assert decide([*voices, truth]).annotators == 4


def test_agreement_is_krippendorffs_alpha():
    """The worked example of Krippendorff (2011), computing alpha for nominal data: 0.743 with missing values."""
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    said = [
        Judgement(f"unit-{unit}", str(coder), str(value))
        for coder, values in enumerate(table)
        for unit, value in enumerate(values)
        if value
    ]
    assert agreement(latest(said)) == pytest.approx(0.743, abs=0.0005)
    assert agreement(latest(said[:1])) is None
    assert agreement({"a": [Judgement("a", "1", "keep"), Judgement("a", "2", "keep")]}) is None


def test_the_rows_with_the_highest_scores_or_nearest_to_a_margin_go_out(tmp_path):
    rows = [talk(n) for n in range(30)]
    reference = DataReference(write(tmp_path / "rows.jsonl", rows))
    scores = {f"row-{n}": n / 10 for n in range(20)} | {"gone": 99.0}

    def ids(**choice):
        found = export_labels(reference, Choice(**choice), tool="prodigy", out=tmp_path / "tasks.jsonl")
        return [row["id"] for row in found]

    assert ids(count=3, scores=scores) == ["row-19", "row-18", "row-17"]
    assert set(ids(count=3, scores=scores, near=0.5)) == {"row-4", "row-5", "row-6"}
    assert len(ids(count=30, scores=scores)) == 20
    with pytest.raises(DataError, match="no row to label; no id in --scores is among them"):
        ids(scores={"gone": 1.0})
    with pytest.raises(DataError, match=r"rows.jsonl:1: prompt: a list of messages is needed"):
        ids(pairwise=True)


def test_without_scores_the_row_that_answers_unlike_its_neighbours_goes_out_first(tmp_path):
    topics = {"a lost card": "Block it in the app.", "a late bill": "You have ten days.", "a meter": "Book a visit."}
    rows = [
        {"id": f"{topic}-{n}", "prompt": f"What about {topic}, case {n}?", "completion": answer}
        for topic, answer in topics.items()
        for n in range(10)
    ]
    rows[14]["completion"] = "Plant the tulips in autumn."
    for order in (rows, rows[::-1]):
        reference = DataReference(write(tmp_path / "rows.jsonl", order))
        best = export_labels(reference, Choice(count=1), tool="prodigy", out=tmp_path / "tasks.jsonl")
        assert best[0]["id"] == rows[14]["id"]
    pairs = [pair(n) for n in range(9)]
    pairs[4]["rejected"][0]["content"] = "good  4"
    reference = DataReference(write(tmp_path / "rows.jsonl", pairs))
    best = export_labels(reference, Choice(count=1, pairwise=True), tool="prodigy", out=tmp_path / "tasks.jsonl")
    assert best[0]["id"] == "pair-4"


def test_only_the_named_split_of_an_experiment_goes_out(tmp_path):
    rows = [talk(n) for n in range(200)]
    reference = DataReference(write(tmp_path / "rows.jsonl", rows), split=SplitConfig())
    found = {}
    for name in ("train", "tune", "holdout", "bench", "all"):
        chosen = export_labels(reference, Choice(count=200, split=name), tool="prodigy", out=tmp_path / "tasks.jsonl")
        found[name] = {row["id"] for row in chosen}
    shares = SplitConfig().shares()
    assert found["train"] == {row["id"] for row in rows if split_of(row["group"], shares) == "train"}
    assert len(found["all"]) == 200 == sum(len(found[name]) for name in shares)


def damaged(folder, tool, damage):
    """An export of one task that `damage` was done to."""
    task = next(iter(ANNOTATED[tool](export(folder, [talk(0, SECRET)], tool)[0], {"row-0": [(1, "keep", "")]})))
    damage(task, task.get("data", task))
    path = folder / "export.json"
    path.write_text(json.dumps(task) if tool == "prodigy" else json.dumps([task]), encoding="utf-8")
    return path


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


def run(*arguments):
    return CliRunner().invoke(main, list(arguments))


def test_the_commands(tmp_path):
    rows = write(tmp_path / "rows.jsonl", [talk(n) for n in range(5)])
    tasks = tmp_path / "out/tasks.json"
    done = run("labels", "export", str(rows), "--to", "label-studio", "--out", str(tasks), "--count", "3", "--json")
    assert done.exit_code == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["rows"] == len(value["ids"]) == 3
    assert (tmp_path / "out/tasks.config.xml").read_text().startswith("<View>")
    judged = zip(value["ids"], ("keep", "keep", "drop"), strict=True)
    said = {key: [(1, "keep", ""), (2, verdict, "")] for key, verdict in judged}
    export_file = annotate(tmp_path, json.loads(tasks.read_text()), said, "json")
    arguments = ("labels", "import", str(export_file), "--from", "label-studio", "--out", str(tmp_path / "new.jsonl"))
    back = json.loads(run(*arguments, "--json").stdout)
    assert (back["exported"], back["written"], back["conflicts"]) == (3, 2, 1)
    assert back["conflicting"] == {value["ids"][2]: "verdicts differ: 1 drop, 1 keep"}
    assert -1 < back["alpha"] < 1
    text = run(*arguments).stdout
    assert "3 exported, 3 returned, 0 missing" in text
    assert f"1 in conflict: {value['ids'][2]} (verdicts differ" in text


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
