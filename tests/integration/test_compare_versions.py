"""`tunesmith compare` over registered versions: by their evidence, and by later scores of the same weights."""

import json
from dataclasses import replace

import pytest

from tunesmith.registry import evidence, versions
from tunesmith.tracking import runs
from tunesmith.tracking.scores import log_scores


@pytest.fixture
def project(registered_project):
    return registered_project


def compare(invoke, *arguments):
    done = invoke("compare", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_versions_and_aliases_are_compared_by_their_evidence(store, invoke):
    value = compare(invoke, "models:/bot@champion", "models:/bot@candidate", "base", "--no-log")
    assert (value["split"], value["first"]) == ("holdout", "bot version 1 (champion)")
    better, base = value["rivals"]
    assert better["metrics"]["intent/exact_match"]["difference"] == pytest.approx(25 / 60)
    assert base["metrics"]["intent/exact_match"]["difference"] == pytest.approx(-20 / 60)
    assert (better["outcome"], base["outcome"]) == ("better", "worse")


def test_scores_with_replies_are_preferred_to_the_evidence_of_the_same_weights(store, invoke):
    version = versions.get("bot", "2")
    record = evidence.load(version.run_id)
    samples = tuple(
        {"task": "intent", "id": item, "target": "billing", "filtered_resps": ["Route: outages"]}
        for item in record.candidate.items["intent"]
    )
    tags = {"adapter_sha256": record.adapter_sha256, "base_sha256": record.base_sha256}
    run = runs.create("bot", "holdout-winner", kind="holdout", tags=tags)
    log_scores(run, replace(record.candidate, samples=samples))
    run.finish("FINISHED")
    value = compare(invoke, "models:/bot/1", "models:/bot/2")
    page = runs.attach(value["run_id"]).download("report/comparison.html", store / "down").read_text()
    assert "Route: outages" in page


def test_an_unscored_version_is_told_how_to_be_scored_on_the_holdout(store, invoke):
    version = versions.get("bot", "1")
    for n, key in enumerate(("adapter_sha256", "base_sha256")):
        runs.attach(version.run_id).tags({key: f"other {n}"})
    done = invoke("compare", "models:/bot/2", "models:/bot/1", "--split", "holdout")
    assert done.exit_code == 2
    command = "tunesmith evaluate models:/bot/1 --experiment EXPERIMENT --split holdout"
    assert f"models:/bot/1: has not been scored on holdout; score it: {command}" in done.stderr
