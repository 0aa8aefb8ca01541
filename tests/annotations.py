"""Rows that go out to be labelled, and exports as Label Studio and Prodigy write them."""

import json

from click.testing import CliRunner

from tunesmith.cli import main
from tunesmith.data.labels.transfer import Choice, export_labels, import_labels
from tunesmith.data.versions import DataReference

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


def damaged(folder, tool, damage):
    """An export of one task that `damage` was done to."""
    task = next(iter(ANNOTATED[tool](export(folder, [talk(0, SECRET)], tool)[0], {"row-0": [(1, "keep", "")]})))
    damage(task, task.get("data", task))
    path = folder / "export.json"
    path.write_text(json.dumps(task) if tool == "prodigy" else json.dumps([task]), encoding="utf-8")
    return path


def take(folder, path, tool):
    name = "prodigy" if tool == "prodigy" else "label-studio"
    return import_labels(path, tool=name, out=folder / "labelled.jsonl")


def run(*arguments):
    """A command of the command line."""
    return CliRunner().invoke(main, list(arguments))
