"""`tunesmith compare` over a real store: runs, versions, aliases and the base, by scores that they have."""

import json
import shlex
from dataclasses import replace

import pytest
from tests.versions import EXPERIMENT

from tunesmith.config import Experiment, overrides
from tunesmith.records import Scores
from tunesmith.tracking import runs
from tunesmith.tracking import store as tracking_store
from tunesmith.tracking.scores import BASE, log_scores, read_scores

COUNT = 80
SETTINGS = {"lm_eval": "0.4.13", "batch_size": 64, "tasks": {"intent": {"max_tokens": 64}}}


def scores(right, *, split="bench", settings=None, order=None):
    """The first `right` of 80 items right, replies that differ, and a loss of which less is better."""
    kept = settings or SETTINGS
    items = {
        f"i{n}": {"exact_match": float(n < right), "loss": 2.0 - right / 100 + n % 7} for n in order or range(COUNT)
    }
    samples = [
        {"task": "intent", "id": item, "target": "billing", "filtered_resps": [f"reply {right} <b>to</b> {item}"]}
        for item in items
    ]
    return Scores(
        metrics={f"{split}/intent/exact_match": right / COUNT, f"{split}/intent/loss": 7.0 - right / 100},
        items={"intent": items},
        groups={item: item for item in items},
        digest=json.dumps([kept, list(items)]),
        samples=tuple(samples),
        lower_is_better=("intent/loss",),
        settings=kept,
    )


def scored_run(held, *, name="run", adapter="a", kind="sft", parent=None):
    """A finished run with scores of an adapter."""
    tags = {"adapter_sha256": adapter, "base_sha256": "b", "experiment_file": EXPERIMENT}
    run = runs.create("compare", name, kind=kind, parent=parent, tags=tags)
    run.json(Experiment.from_yaml(EXPERIMENT).tree(), "experiment.json")
    log_scores(run, held)
    run.finish("FINISHED")
    return run.id


def compare(invoke, *arguments, code=0):
    done = invoke("compare", *arguments)
    assert done.exit_code == code, done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done.stdout if not code else done.stderr


def test_scores_come_back_as_they_were_logged(store):
    held = scores(30)
    assert read_scores(scored_run(held)) == replace(held, samples=held.samples)


def test_two_runs_are_compared_item_by_item_and_the_page_is_on_a_run(store, invoke):
    first, second = scored_run(scores(30), name="old"), scored_run(scores(50), name="new", adapter="c")
    value = compare(invoke, first, second, "--html", "page.html", "--json")
    rival = value["rivals"][0]
    assert (value["split"], value["items"], rival["outcome"]) == ("bench", COUNT, "better")
    match = rival["metrics"]["intent/exact_match"]
    assert match["difference"] == pytest.approx(20 / COUNT)
    assert match["test"] == "exact McNemar"
    assert match["p_value"] == pytest.approx(2 * 0.5**20)
    loss = rival["metrics"]["intent/loss"]
    assert (loss["test"], loss["lower_is_better"], loss["outcome"]) == ("paired bootstrap", True, "better")
    assert loss["difference"] == pytest.approx(-0.2)
    assert len(rival["changed"]) == 20
    run = tracking_store.client().get_run(value["run_id"])
    assert run.data.tags["tunesmith.kind"] == "comparison"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["difference/intent/exact_match"] == pytest.approx(20 / COUNT)
    page = runs.attach(value["run_id"]).download("report/comparison.html", store / "down").read_text()
    assert page == (store / "page.html").read_text()
    assert "reply 50 &lt;b&gt;to&lt;/b&gt; i30" in page
    text = compare(invoke, first, second, "--no-log")
    assert f"new ({second[:8]}) is better than old ({first[:8]}) on intent/exact_match, intent/loss" in text


def test_one_metric_alone_and_its_misspelling(store, invoke):
    first, second = scored_run(scores(30)), scored_run(scores(50), adapter="c")
    value = compare(invoke, first, second, "--metrics", "bench/intent/exact_match", "--json")
    assert list(value["rivals"][0]["metrics"]) == ["intent/exact_match"]
    error = compare(invoke, first, second, "--metrics", "intent/exact_mach", code=2)
    assert "--metrics: intent/exact_mach: no item has this metric; did you mean intent/exact_match?" in error


def test_a_sweep_stands_for_its_winner_and_base_for_the_base_of_the_first(store, invoke):
    sweep = runs.create("compare", "sweep", kind="sweep", tags={"base_sha256": "b"})
    scored_run(scores(10), adapter=BASE, kind="base", parent=sweep)
    winner = scored_run(scores(30), name="confirm-001-seed-1", parent=sweep)
    other = scored_run(scores(31), name="other", adapter="c")
    error = compare(invoke, sweep.id, other, code=2)
    assert f"{sweep.id}: the run has no winner yet" in error
    sweep.tags({"winner_run": winner})
    value = compare(invoke, "base", sweep.id, other, "--json")
    assert value["first"] == "base"
    assert [rival["model"].partition(" ")[0] for rival in value["rivals"]] == ["confirm-001-seed-1", "other"]
    assert [rival["outcome"] for rival in value["rivals"]] == ["better", "better"]
    elsewhere = scored_run(scores(5), adapter=BASE, kind="base")
    runs.attach(elsewhere).tags({"base_sha256": "another base"})
    assert compare(invoke, "base", sweep.id, other, "--json")["rivals"][0]["metrics"] == value["rivals"][0]["metrics"]


@pytest.mark.parametrize(
    ("settings", "order", "why"),
    [
        ({**SETTINGS, "batch_size": 16}, None, "batch_size 64 against 16"),
        ({**SETTINGS, "tasks": {"intent": {"max_tokens": 9}}}, None, "tasks.intent.max_tokens 64 against 9"),
        (None, range(1, COUNT), "1 of 80 items of intent are missing from {second}, i0 first"),
        (None, range(COUNT + 2), "2 of 82 items of intent are missing from {first}, i80 first"),
        (None, [1, 0, *range(2, COUNT)], "the items of intent are in another order, from i0 on"),
    ],
)
def test_scores_under_another_digest_are_refused_and_what_differs_is_named(store, invoke, settings, order, why):
    first = scored_run(scores(30), name="first")
    second = scored_run(scores(50, settings=settings, order=order), name="second", adapter="c")
    error = compare(invoke, first, second, code=1)
    assert error.count("\n") == 1
    assert f"{second}: its scores on bench do not compare with those of {first}: " in error
    assert why.format(first=first, second=second) in error
    assert f"score it: tunesmith evaluate {second} --experiment {EXPERIMENT} --split bench" in error


def test_damaged_scores_are_named_by_item(store, invoke):
    first, second = scored_run(scores(30)), scored_run(scores(50), adapter="c")
    held = scores(50)
    del held.items["intent"]["i7"]
    runs.attach(second).json({**vars(held)}, "evaluation/samples.json")
    error = compare(invoke, first, second, code=1)
    assert f"{second}: 1 of 80 items of intent are missing from {second}, i7 first" in error
    runs.attach(second).json({"digest": "x"}, "evaluation/samples.json")
    assert f"run {second}: its evaluation/samples.json is damaged" in compare(invoke, first, second, code=2)


def test_who_was_not_scored_is_told_the_command_with_the_settings_of_the_other(store, invoke):
    first = scored_run(scores(30))
    changed = overrides.apply(Experiment.from_yaml(EXPERIMENT), {"evaluation.batch_size": 8})
    runs.attach(first).json(changed.tree(), "experiment.json")
    second = scored_run(scores(50, split="tune"), adapter="c")
    error = compare(invoke, first, second, "--split", "bench", code=2)
    assert error.count("\n") == 1
    command = error.strip().partition("score it: ")[2]
    given = ["--experiment", EXPERIMENT, "--set", "evaluation.batch_size=8", "--split", "bench"]
    assert shlex.split(command) == ["tunesmith", "evaluate", second, *given]
    error = compare(invoke, first, second, "--split", "holdout", code=2)
    assert "only registered versions are scored on the holdout; score it on bench: tunesmith evaluate" in error
    error = compare(invoke, "base", first, "--split", "bench", code=2)
    assert f"base: has not been scored on bench; score it and its base: tunesmith evaluate {first}" in error


@pytest.mark.parametrize(
    ("names", "code", "message"),
    [
        (("base", "base"), 2, "base: of which model? name at least one other than base"),
        (("0" * 32, "base"), 2, f"{'0' * 32}: no such run"),
        (("models:/none@champion", "base"), 1, "models:/none@champion: no version of none has that alias"),
    ],
)
def test_what_names_no_model_is_refused(store, invoke, names, code, message):
    assert message in compare(invoke, *names, code=code)


def test_a_run_without_a_model_is_refused(store, invoke):
    run = runs.create("compare", "audit", kind="audit")
    assert "is of kind audit and holds no model and no scores" in compare(invoke, run.id, "base", code=2)


def test_the_same_weights_twice_are_said_to_be_that(store, invoke):
    first, second = scored_run(scores(30)), scored_run(scores(30, split="tune"))
    value = compare(invoke, first, second, "--no-log", "--json")
    assert value["rivals"][0]["outcome"] == "inconclusive"
    assert value["notes"][-1].endswith("are the same weights")
    assert value["run_id"] == ""
