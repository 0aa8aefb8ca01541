"""Labels: the rows that go out, and every way in which judgements come back."""

import json
import random

import pytest
from tests.annotations import (
    annotate,
    export,
    pair,
    run,
    take,
    talk,
    write,
)

from tunesmith.config.experiment import SplitConfig
from tunesmith.data.dataset import load_rows
from tunesmith.data.digest import digest_rows
from tunesmith.data.formats import check_conversation, check_preference
from tunesmith.data.labels.task import Judgement, exported_row
from tunesmith.data.labels.transfer import Choice, export_labels
from tunesmith.data.labels.verdicts import agreement, decide, latest
from tunesmith.data.split import split_of
from tunesmith.data.versions import DataReference, diff
from tunesmith.errors import DataError


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
