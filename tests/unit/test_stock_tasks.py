"""Tasks of lm-eval itself: found by name, their data at hand or named, one's own files approved, scored by item."""

import json
import os
import pathlib

import datasets
import pytest

from tunesmith import pipeline
from tunesmith.config import overrides
from tunesmith.config.experiment import Experiment
from tunesmith.config.task import task_name
from tunesmith.data import stock
from tunesmith.data.tasks import fewer_items, load_items, load_tasks
from tunesmith.errors import ConfigError, DataError
from tunesmith.evaluate.harness import score

COLOURS = ["red", "green", "blue", "white"]
OWN = """
task: whatever
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: !function tools.ask
doc_to_target: 0
doc_to_choice: ["yes", "no"]
include: base
metadata: {{version: 1}}
"""


@pytest.fixture
def here(project, monkeypatch) -> pathlib.Path:
    """A copy of the project to work in, with the smoke experiment."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(project / "cache"))
    for cached in (stock.harness_task, stock.rows_of):
        cached.cache_clear()
    return project


@pytest.fixture
def arc(here) -> pathlib.Path:
    """Eighty invented items where the stock task arc_easy looks for its data set."""
    folder = here / "allenai/ai2_arc"
    folder.mkdir(parents=True)
    files = "".join(f"  - {{split: {name}, path: {name}.jsonl}}\n" for name in ("train", "validation", "test"))
    names = "".join(f"- config_name: {name}\n  data_files:\n{files}" for name in ("ARC-Easy", "ARC-Challenge"))
    folder.joinpath("README.md").write_text(f"---\nconfigs:\n{names}---\n")
    for name, count in (("train", 2), ("validation", 2), ("test", 80)):
        rows = [
            {
                "id": f"{name}-{n}",  # the data set's own, not the row's
                "question": f"Which of these is the colour number {n}?",
                "choices": {"text": COLOURS, "label": ["A", "B", "C", "D"]},
                "answerKey": "ABCD"[n % 4],
            }
            for n in range(count)
        ]
        folder.joinpath(f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def smoke(**values) -> Experiment:
    experiment = Experiment.from_yaml("experiments/smoke.yaml")
    return overrides.apply(experiment, {f"evaluation.{name}": value for name, value in values.items()})


def with_arc() -> Experiment:
    return smoke(tasks=["quiz", "lm_eval:arc_easy"], primary="tune/arc_easy/acc")


def own_task(here, *, ask="return doc['question']") -> pathlib.Path:
    folder = here / "experiments/smoke/tasks/mine"
    folder.mkdir(exist_ok=True)
    data = folder / "items.jsonl"
    data.write_text("".join(json.dumps({"question": f"Is it {n}?"}) + "\n" for n in range(40)))
    folder.joinpath("own.task.yaml").write_text(OWN.format(data=data))
    folder.joinpath("base").write_text("metric_list: [{metric: acc}]\n")
    folder.joinpath("tools.py").write_text(f"open('ran', 'w').close()\ndef ask(doc):\n    {ask}\n")
    return folder


def test_names_in_metrics_have_neither_slash_nor_colon():
    references = ["intent", "lm_eval:arc_easy", "lm_eval:mine/own.task.yaml", "lm_eval:a:b.c"]
    assert [task_name(reference) for reference in references] == ["intent", "arc_easy", "own_task", "a_b_c"]


def test_a_stock_task_is_scored_item_by_item(arc, tuned_model, tokenizer):
    experiment = with_arc()
    tasks = load_tasks(experiment)
    items = load_items(tasks, experiment, "tune")
    rows = items["arc_easy"]
    assert rows[0]["text"].startswith("Question: Which of these is the colour number")
    others = [
        row["id"] for split in ("train", "holdout", "bench") for row in load_items(tasks, experiment, split)["arc_easy"]
    ]
    assert sorted([*others, *(row["id"] for row in rows)]) == sorted(f"arc_easy-{n}" for n in range(80))
    scores = score(tuned_model, tokenizer, tasks, items, split="tune", batch_size=4)
    values = scores.items["arc_easy"]
    assert set(values) == {row["id"] for row in rows}
    assert scores.metrics["tune/arc_easy/acc"] == pytest.approx(sum(v["acc"] for v in values.values()) / len(rows))
    asked = {s["id"]: s for s in scores.samples if s["task"].startswith("arc_easy")}
    assert all(sample["target"] == int(item.split("-")[1]) % 4 for item, sample in asked.items())
    # the model's choice, by its likelihoods, is what acc is about
    best = {item: max(range(4), key=lambda n: s["filtered_resps"][n][0]) for item, s in asked.items()}
    assert {item: float(best[item] == s["target"]) for item, s in asked.items()} == {
        i: v["acc"] for i, v in values.items()
    }
    assert len(scores.items["quiz"]) == len(items["quiz"])
    few = fewer_items(items, tasks, experiment, keep_primary=False)
    again = score(tuned_model, tokenizer, tasks, few, split="tune", batch_size=4)
    assert 0 < len(again.items["arc_easy"]) < len(values)
    assert all(v["acc"] == values[item]["acc"] for item, v in again.items["arc_easy"].items())


def test_a_tag_is_scored_as_one_task_over_all_its_items(arc, tuned_model, tokenizer):
    experiment = smoke(tasks=["lm_eval:ai2_arc"], primary="tune/ai2_arc/acc")
    tasks = load_tasks(experiment)
    items = load_items(tasks, experiment, "tune")
    scores = score(tuned_model, tokenizer, tasks, items, split="tune", batch_size=4)
    values = scores.items["ai2_arc"]
    assert {row["part"] for row in items["ai2_arc"]} == {"arc_easy", "arc_challenge"}
    assert set(values) == {row["id"] for row in items["ai2_arc"]}
    assert scores.metrics["tune/ai2_arc/acc"] == pytest.approx(sum(v["acc"] for v in values.values()) / len(values))
    easy = {"ai2_arc": [row for row in items["ai2_arc"] if row["part"] == "arc_easy"]}
    alone = score(tuned_model, tokenizer, tasks, easy, split="tune", batch_size=4)
    assert set(alone.items["ai2_arc"]) == {row["id"] for row in easy["ai2_arc"]}


def test_a_group_stands_for_all_its_tasks():
    parts = stock.named_parts("mmlu")
    assert len(parts) == 57
    assert {part.data for part in parts} == {"cais/mmlu"}
    assert [part.name for part in stock.named_parts("mmlu_abstract_algebra")] == ["mmlu_abstract_algebra"]


def test_items_whose_answers_were_changed_are_others(arc):
    def digests() -> list[str]:
        stock.harness_task.cache_clear()
        stock.rows_of.cache_clear()
        experiment = with_arc()
        return [row["item_sha256"] for row in load_items(load_tasks(experiment), experiment, "tune")["arc_easy"]]

    first, file = digests(), arc / "test.jsonl"
    file.write_text(file.read_text().replace('"answerKey": "A"', '"answerKey": "B"'))
    assert digests() != first


def test_a_task_without_its_data_is_named_before_anything_runs(here, store):
    with pytest.raises(
        DataError,
        match=r"smoke.yaml: evaluation.tasks: lm_eval:arc_easy: its data set allenai/ai2_arc is not at hand .*leave",
    ):
        pipeline.preflight(with_arc())


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("lm_eval:arc_esy", r"smoke.yaml: evaluation.tasks: lm_eval:arc_esy: lm-eval .* did you mean arc_easy"),
        ("lm_eval:agieval_en_x", r"evaluation.tasks: lm_eval:agieval_en_x: lm-eval .* has no task of this name"),
        ("lm_eval:gone.yaml", r"smoke.yaml: evaluation.tasks: lm_eval:gone.yaml: .*gone.yaml cannot be read: "),
    ],
)
def test_what_is_no_task_is_refused(here, reference, message):
    experiment = smoke(tasks=[reference], primary=f"tune/{task_name(reference)}/acc")
    with pytest.raises(ConfigError, match=message):
        load_tasks(experiment)


def test_a_file_of_ones_own_runs_only_when_its_digest_is_approved(here, tuned_model, tokenizer):
    folder = own_task(here)

    def experiment(*approved: str) -> Experiment:
        reference = "lm_eval:mine/own.task.yaml"
        return smoke(tasks=[reference], primary="tune/own_task/acc", approved=list(approved))

    with pytest.raises(
        ConfigError, match=r"own.task.yaml: may run code; read .*tools.py.*approved: [0-9a-f]{64}$"
    ) as told:
        load_tasks(experiment())
    assert not os.path.exists("ran")
    digest = str(told.value)[-64:]
    tasks = load_tasks(experiment(digest))
    items = load_items(tasks, experiment(digest), "tune")
    assert os.path.exists("ran")
    assert items["own_task"][0]["text"].startswith("Is it ")
    scores = score(tuned_model, tokenizer, tasks, items, split="tune", batch_size=4)
    assert set(scores.items["own_task"]) == {row["id"] for row in items["own_task"]}
    linked = folder.parent / "linked.yaml"
    linked.symlink_to(folder / "own.task.yaml")  # lm-eval takes modules from where the file itself lies
    assert stock.TaskFile(linked).sha256 == digest
    for changed in ("tools.py", "base"):
        file = folder / changed
        kept = file.read_text()
        file.write_text(kept + "# other\n")
        with pytest.raises(ConfigError, match="may run code"):
            load_tasks(experiment(digest))
        file.write_text(kept)
    assert load_tasks(experiment(digest)) == tasks
