"""Tasks made from rows: what each measure says of known replies, examples, templates, and settings that differ."""

import json
import math

import pytest
import sacrebleu

from tunesmith.config import overrides
from tunesmith.config.experiment import Experiment
from tunesmith.config.task import Task
from tunesmith.data.tasks import load_items, load_tasks, right_answers
from tunesmith.errors import DataError
from tunesmith.evaluate.harness import score
from tunesmith.evaluate.live import LiveModel
from tunesmith.evaluate.prompts import make_doc
from tunesmith.evaluate.text import squad_exact, token_f1
from tunesmith.records import Scores

ANSWERS = ["The fee is $8.", "Pay within 20 days", "Call the crew now"]
REPLIES = ["fee is 8", "Pay in 20 days", "no"]
ROWS = [
    {
        "id": f"r{n}",
        "group": f"g{n}",
        "gold": [answer, "something else"],
        "messages": [
            {"role": "system", "content": "You are the desk."},
            {"role": "user", "content": f"Question {n}?"},
            {"role": "assistant", "content": answer},
        ],
    }
    for n, answer in enumerate(ANSWERS)
]
QUESTION = {"id": "q", "group": "q", "question": "Which is hot?", "choices": ["ice", "fire"], "answer": 1}


@pytest.fixture
def task(tmp_path):
    def make(text: str, name: str = "task") -> Task:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        return Task.from_yaml(path)

    return make


@pytest.fixture
def known_replies(monkeypatch):
    monkeypatch.setattr(LiveModel, "_greedy", lambda _, requests: REPLIES[: len(requests)])


def run(model, tokenizer, task, rows=ROWS) -> Scores:
    return score(model, tokenizer, {"task": task}, {"task": rows}, split="tune", batch_size=2)


def test_squad_words_ignore_case_articles_and_punctuation():
    assert squad_exact(["The Fee, is a 8!"], "fee is 8") == 1.0
    assert squad_exact(["the"], "a") == 1.0
    assert token_f1(["pay within 20 days"], "Pay in 20 days") == pytest.approx(0.75)
    assert token_f1(["no such words", "pay"], "pay now") == pytest.approx(2 / 3)
    assert token_f1(["the"], "now") == 0.0


@pytest.mark.parametrize("line", ["", "answer: gold\n"])
def test_extractive_compares_words(tuned_model, tokenizer, task, known_replies, line):
    scored = run(tuned_model, tokenizer, task(f"measure: extractive\n{line}"))
    assert [scored.items["task"][f"r{n}"]["exact_match"] for n in range(3)] == [1.0, 0.0, 0.0]
    assert [scored.items["task"][f"r{n}"]["f1"] for n in range(3)] == pytest.approx([1.0, 0.75, 0.0])
    assert scored.metrics["tune/task/f1"] == pytest.approx(1.75 / 3)


def test_generation_gives_values_that_pair_and_a_corpus_bleu(tuned_model, tokenizer, task, known_replies):
    scored = run(tuned_model, tokenizer, task("measure: generation\n"))
    metrics, items = scored.metrics, scored.items["task"]
    assert metrics["tune/task/corpus_bleu"] == pytest.approx(sacrebleu.corpus_bleu(REPLIES, [ANSWERS]).score)
    assert set(items["r0"]) == {"rouge_1", "rouge_2", "rouge_l", "bleu", "chrf"}
    assert items["r1"]["bleu"] == pytest.approx(sacrebleu.sentence_bleu(REPLIES[1], [ANSWERS[1]]).score)
    assert items["r1"]["rouge_1"] == pytest.approx(0.75)
    assert items["r1"]["rouge_2"] == pytest.approx(1 / 3)
    for name in items["r0"]:
        assert metrics[f"tune/task/{name}"] == pytest.approx(sum(item[name] for item in items.values()) / 3)


def test_likelihood_alone_is_that_of_rouge(tuned_model, tokenizer, task):
    alone = run(tuned_model, tokenizer, task("measure: likelihood\n"))
    with_rouge = run(tuned_model, tokenizer, task("measure: rouge\nmax_tokens: 2\n"))
    assert set(alone.metrics) == {"tune/task/perplexity"}
    assert alone.metrics["tune/task/perplexity"] == with_rouge.metrics["tune/task/perplexity"]


def test_perplexity_without_the_template_counts_the_tokens_of_the_reply(tuned_model, tokenizer, task):
    row = ROWS[0]
    doc = make_doc(row, task("measure: likelihood\nchat_template: false\n"), tokenizer)
    assert doc["prompt"] == "You are the desk.\n\nUser: Question 0?\nAssistant:"
    with_reply = tokenizer(f"{doc['prompt']} {ANSWERS[0]}")["input_ids"]
    assert doc["reply_tokens"] == len(with_reply) - len(tokenizer(doc["prompt"])["input_ids"])
    scored = run(tuned_model, tokenizer, task("measure: likelihood\nchat_template: false\n"), [row])
    assert math.log(scored.metrics["tune/task/perplexity"]) == pytest.approx(scored.items["task"]["r0"]["perplexity"])


def test_a_question_may_be_asked_in_the_template(tokenizer, task):
    plain = make_doc(QUESTION, task("measure: multiple_choice\n"), tokenizer)
    assert (plain["prompt"], plain["delimiter"]) == ("Question: Which is hot?\nAnswer:", " ")
    asked = make_doc(QUESTION, task("measure: multiple_choice\nchat_template: true\n"), tokenizer)
    turns = [{"role": "user", "content": "Which is hot?"}]
    assert asked["prompt"] == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert asked["delimiter"] == ""


def test_examples_come_before_the_item(tokenizer, task):
    shown = {**ROWS[1], "shots": [ROWS[0]]}
    doc = make_doc(shown, task("measure: extractive\nchat_template: false\n"), tokenizer)
    assert doc["prompt"] == (
        "You are the desk.\n\nUser: Question 0?\nAssistant: The fee is $8.\n\nUser: Question 1?\nAssistant:"
    )
    shown = {**QUESTION, "shots": [{**QUESTION, "question": "Which is cold?", "answer": 0}]}
    doc = make_doc(shown, task("measure: multiple_choice\n"), tokenizer)
    assert doc["prompt"] == "Question: Which is cold?\nAnswer: ice\n\nQuestion: Which is hot?\nAnswer:"


@pytest.fixture
def smoke(project):
    """The smoke experiment in a copy, with one task of its own."""

    def make(text: str) -> Experiment:
        (project / "experiments/smoke/tasks/mine.yaml").write_text(text, encoding="utf-8")
        experiment = Experiment.from_yaml(project / "experiments/smoke.yaml")
        values = {"evaluation.tasks": ["mine"], "evaluation.primary": "tune/mine/acc"}
        return overrides.apply(experiment, values)

    return make


def items_of(experiment: Experiment):
    return load_items(load_tasks(experiment), experiment, "tune")["mine"]


def test_examples_are_drawn_from_train_by_the_seed(smoke):
    text = "measure: multiple_choice\nrows: ../quiz.jsonl\nshots: 3\n"
    first, again, other = (items_of(smoke(f"{text}shots_seed: {seed}\n")) for seed in (1, 1, 2))
    shots = [row["id"] for row in first[0]["shots"]]
    assert [row["id"] for row in again[0]["shots"]] == shots != [row["id"] for row in other[0]["shots"]]
    assert all(row["shots"] == first[0]["shots"] for row in first)
    experiment = smoke(text)
    for split in ("tune", "holdout", "bench"):
        held_out = load_items(load_tasks(experiment), experiment, split)["mine"]
        assert not {row["id"] for row in held_out} & set(shots)


def write_rows(experiment: Experiment, **fields) -> None:
    path = experiment.path.parent / "smoke/mine.jsonl"
    rows = [{**ROWS[0], "id": f"m{n}", "group": f"m{n}", **fields} for n in range(40)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("measure: extract\nanswer: kind\n", r"all \d+ items in tune have the same right answer"),
        ("measure: extractive\n", r"all \d+ items in tune have the same right answer"),
        ("measure: extract\nanswer: gone\n", "answer: row m.* has no text, or list of texts, in gone"),
        ("measure: extract\npattern: 'Route: (x)'\n", "pattern: the reference reply of row m.* has nothing that"),
        ("measure: rouge\nshots: 64\n", r"shots: 64 examples are wanted, \d+ rows are dealt to train"),
    ],
)
def test_a_task_that_cannot_tell_models_apart_is_refused(smoke, text, message):
    experiment = smoke(f"{text}rows: ../mine.jsonl\n")
    write_rows(experiment, kind="billing")
    with pytest.raises(DataError, match=rf"mine.yaml: {message}"):
        items_of(experiment)


def test_the_label_is_read_from_the_reference_where_no_field_holds_it(task):
    reply = {"role": "assistant", "content": "Pay.\nRoute: billing"}
    row = {"id": "r", "group": "g", "intent": "outages", "messages": [reply]}
    pattern = "measure: extract\npattern: 'Route: ([a-z]+)\\s*$'\n"
    assert right_answers(task(pattern), row) == ["billing"]
    assert right_answers(task(f"{pattern}answer: intent\n"), row) == ["outages"]


def test_scores_of_other_examples_or_batches_have_another_digest(tuned_model, tokenizer, task):
    text = "measure: likelihood\n"
    first = run(tuned_model, tokenizer, task(text))
    assert first.settings["tasks"]["task"]["version"] == 1
    shot = run(tuned_model, tokenizer, task(f"{text}shots: 1\n"), [{**row, "shots": [ROWS[0]]} for row in ROWS])
    seed = run(tuned_model, tokenizer, task(f"{text}shots_seed: 1\n"))
    larger = score(tuned_model, tokenizer, {"task": task(text)}, {"task": ROWS}, split="tune", batch_size=3)
    assert len({scores.digest for scores in (first, shot, seed, larger)}) == 4
    assert first.digest == run(tuned_model, tokenizer, task(text)).digest
