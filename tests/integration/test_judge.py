"""`tunesmith compare --judge` against a real HTTP server that answers as an OpenAI-compatible endpoint does."""

import json
import re

import pytest
from tests.servers import free_port, receiver
from tests.versions import EXPERIMENT

from tunesmith.config import Experiment
from tunesmith.data.digest import digest_rows
from tunesmith.data.tasks import load_items, load_tasks
from tunesmith.records import Scores
from tunesmith.tracking import runs
from tunesmith.tracking import store as tracking_store
from tunesmith.tracking.scores import log_scores

KEY = "sk-very-secret"
SHOWN = re.compile(r"<first>(.*)</first><second>(.*)</second>", re.DOTALL)
PROMPT = "<asked>$conversation</asked><first>$first</first><second>$second</second> It costs $5."


def completion(text):
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}]}


def prefers_good(body):
    good = ["good" in text for text in SHOWN.search(body["messages"][0]["content"]).groups()]
    word = "tie" if good[0] == good[1] else "first" if good[0] else "Second"
    return completion(f"I thought about it.\n**{word}**.")


@pytest.fixture
def compared(store, invoke, monkeypatch):
    """Compares a good and a bad model on the smoke task `reply` with a judge at a URL; one pair of replies is equal."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    experiment = Experiment.from_yaml(EXPERIMENT)
    rows = load_items({"reply": load_tasks(experiment)["reply"]}, experiment, "holdout")["reply"]

    def model(word, adapter, digest):
        items = {row["id"]: {"rouge_l": float(len(word))} for row in rows}
        said = [word if n else "the same" for n in range(len(rows))]
        samples = tuple(
            {"task": "reply", "id": row["id"], "target": "", "filtered_resps": [text]}
            for row, text in zip(rows, said, strict=True)
        )
        held = Scores(
            metrics={"holdout/reply/rouge_l": float(len(word))},
            items={"reply": items},
            groups={row["id"]: row["group"] for row in rows},
            digest="d",
            samples=samples,
            settings={"items": {"reply": digest}},
        )
        run = runs.create("judge", word, kind="sft", tags={"adapter_sha256": adapter, "base_sha256": "b"})
        log_scores(run, held)
        run.finish("FINISHED")
        return run.id

    def compare(url, *options, digest=None, code=0, **more):
        settings = {"url": f"{url}/v1", "model": "m", "experiment": "smoke.yaml", "tasks": ["reply"], "prompt": PROMPT}
        path = store / "experiments" / "judge-here.yaml"
        path.write_text(json.dumps({**settings, "api_key_env": "JUDGE_KEY", **more}), encoding="utf-8")
        scored = digest or digest_rows(rows)
        both = model("bad", "a", scored), model("good", "c", scored)
        done = invoke("compare", *both, "--judge", str(path), *options)
        assert done.exit_code == code, done.stderr
        return done.stderr if code else json.loads(done.stdout)

    compare.rows = rows
    return compare


def test_both_orders_are_asked_and_the_preference_is_logged_as_unvalidated(compared, store):
    with receiver(prefers_good) as (url, heard):
        value = compared(url, "--html", "page.html", "--json", settings={"temperature": 0, "seed": 3})
    count = len(compared.rows)
    (found,) = value["judge"]["preferences"]
    assert found["mean"] == pytest.approx((count - 1 + 0.5) / count)
    assert (found["judged"]["asked"], len(heard)) == (count - 1, 2 * (count - 1))
    assert (found["judged"]["consistency"], found["judged"]["position_bias"]) == (1.0, 0.0)
    assert set(found["judged"]["preferences"]) == {row["id"] for row in compared.rows}
    run = tracking_store.client().get_run(value["run_id"])
    assert run.data.metrics["judge/reply/preference_unvalidated"] == found["mean"]
    assert run.data.metrics["judge/reply/preference_unvalidated_low"] == found["low"] <= found["mean"]
    assert run.data.tags["tunesmith.judge_sha256"] == value["judge"]["sha256"]
    headers, body = heard[0]
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["temperature"], body["seed"]) == ("m", 0, 3)
    said = [body["messages"][0]["content"] for _, body in heard]
    assert all(text.endswith("It costs $5.") for text in said)
    questions = [f"<asked>Customer: {row['messages'][0]['content']}</asked>" for row in compared.rows]
    assert [sum(text.startswith(question) for text in said) for question in questions] == [0] + [2] * (count - 1)
    assert "judge m (unvalidated): on reply" in (store / "page.html").read_text()
    assert KEY not in json.dumps(value) + (store / "page.html").read_text()


def test_a_judge_that_likes_whatever_comes_first_prefers_nobody_and_is_found_out(compared):
    with receiver(lambda body: completion("first")) as (url, heard):
        value = compared(url, "--json", "--no-log", pairs=4, auc=0.8)
    (found,) = value["judge"]["preferences"]
    assert len(heard) <= 8
    assert (found["mean"], found["judged"]["consistency"], found["judged"]["position_bias"]) == (0.5, 0.0, 1.0)
    assert "(unvalidated)" not in value["notes"][-1]
    assert "position bias +1.000" in value["notes"][-1]


@pytest.mark.parametrize(
    ("answer", "headers", "message"),
    [
        (
            lambda body: (401, {"error": {"message": f"no such key: {KEY}\nsorry"}}),
            {},
            "HTTP 401: no such key: … sorry",
        ),
        (lambda body: (200, {"odd": 1}), {}, "is no chat completion"),
        (lambda body: (302, None), {"Location": "http://127.0.0.1:9/elsewhere"}, "HTTP 302"),
        (lambda body: completion("both are fine"), {}, "ends with first, second or tie"),
    ],
)
def test_an_endpoint_that_fails_gets_one_line_and_the_comparison_stands(compared, answer, headers, message):
    with receiver(answer, **headers) as (url, _):
        value = compared(url, "--json")
    assert value["rivals"][0]["metrics"]["reply/rouge_l"]["difference"] == 1.0
    (note,) = [note for note in value["notes"] if note.startswith("judge m")]
    assert "failed, all else stands" in note
    assert message in note
    assert "\n" not in note
    assert KEY not in note
    assert not [name for name in tracking_store.client().get_run(value["run_id"]).data.metrics if "judge" in name]


def test_an_endpoint_that_is_not_there_is_named(compared):
    value = compared(url := f"http://127.0.0.1:{free_port()}", "--json", "--no-log")
    assert f"all else stands: {url}/v1/chat/completions: [Errno 111] Connection refused" in value["notes"][-1]


def test_a_busy_endpoint_is_asked_again(compared, monkeypatch):
    monkeypatch.setattr("tunesmith.models.endpoint.WAITS", (0.0, 0.0))
    busy = iter([503, 429])
    with receiver(lambda body: (code, None) if (code := next(busy, None)) else completion("tie")) as (url, _):
        value = compared(url, "--json", "--no-log", pairs=2)
    assert value["judge"]["failure"] == ""


def test_nothing_is_sent_that_was_not_scored_or_without_its_key(compared, monkeypatch):
    with receiver(prefers_good) as (url, heard):
        assert "are not those that were scored" in compared(url, digest="other", code=1)
        assert "tasks: intent: has no scores of holdout" in compared(url, code=2, tasks=["intent"])
        assert "prompt: lacks $second" in compared(url, code=2, prompt="$conversation $first $secondly")
        monkeypatch.delenv("JUDGE_KEY")
        error = compared(url, code=2)
    assert re.search(r"judge-here\.yaml:1: api_key_env: the environment variable JUDGE_KEY is not set", error)
    assert heard == []
