"""A champion that was scored on an older holdout is scored on the candidate's, by the command that a refusal names."""

import json
import pathlib
import shlex
from dataclasses import replace

import pytest
from tests.versions import EXPERIMENT, POLICY, add_version, make_run, write_policy

from tunesmith import promotion
from tunesmith.config import Experiment, Policy, overrides
from tunesmith.registry import aliases, evidence, ledger, versions
from tunesmith.registry.reigns import SCORES, holdout_uses
from tunesmith.tracking import runs
from tunesmith.tracking import store as tracking_store

POLICY_TEXT = """
model: bot
gates:
  - {metric: holdout/TASK, rule: no_worse_than_champion, margin: 1.0}
"""


@pytest.fixture
def project(registered_project):
    return registered_project


@pytest.fixture
def champion(store):
    """The champion; its later scores would lie where other tests find them, so they are removed."""
    version = versions.get("bot", "1")
    yield version
    folder = tracking_store.client().get_run(version.run_id).info.artifact_uri.removeprefix("file://")
    for path in pathlib.Path(folder, "evaluation").glob("holdout-*.json"):
        path.unlink()


@pytest.fixture
def candidate(store, adapters):
    """A candidate that was really scored, unlike the champion, and with a setting other than its file's."""
    from tunesmith.sweep.protocol import Job
    from tunesmith.sweep.workbench import Workbench

    policy = Policy.from_yaml(write_policy(store, POLICY_TEXT.replace("TASK", "quiz/acc")))
    experiment = overrides.apply(Experiment.from_yaml(EXPERIMENT), {"evaluation.batch_size": 8})
    bench = Workbench(experiment)
    jobs = [Job(experiment, "holdout", "", train=False, adapter=path) for path in (None, str(adapters[1]))]
    base, scores = map(bench.score, jobs)
    run = make_run(adapters[1], right=55)
    run.tags({"experiment_file": EXPERIMENT})
    run.json(experiment.tree(), "experiment.json")
    evidence.save(run, candidate=scores, base=base)
    promotion.note_holdout_use(policy, experiment, run.id)
    return versions.get("bot", promotion.register(experiment, policy, run.id, scores))


def test_a_champion_with_stale_scores_is_scored_again_and_then_judged_by(store, invoke, champion, candidate):
    done = invoke("promote", POLICY)
    assert done.exit_code == 1
    refusal = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(refusal) == 1
    assert "error: bot: the champion, version 1, was scored on other holdout items" in refusal[0]
    command = shlex.split(refusal[0].partition("holdout: ")[2])
    changed = ["--set", "evaluation.batch_size=8"]
    assert command == [
        *f"tunesmith evaluate models:/bot/1 --experiment {EXPERIMENT}".split(),
        *changed,
        "--split",
        "holdout",
    ]

    done = invoke("evaluate", "models:/bot/1", "--experiment", EXPERIMENT, "--split", "holdout")
    assert "the two do not compare" in done.stderr
    assert invoke("promote", POLICY).exit_code == 1

    before = evidence.load(champion.run_id)
    done = invoke(*command[1:], "--json")
    assert done.exit_code == 0, done.stderr
    assert "do not compare" not in done.stderr
    theirs = json.loads(done.stdout)["model"]
    assert evidence.load(champion.run_id) == before
    record = evidence.load(candidate.run_id)
    assert holdout_uses(ledger.read("bot").entries, record.items) == [candidate.run_id, champion.run_id]

    done = invoke("promote", POLICY, "--json")
    assert done.exit_code == 0, done.stderr
    entry = json.loads(invoke("history", POLICY, "--json").stdout)["entries"][-2]
    report = runs.Run(ledger.read("bot").run_id, "").read_json(f"reports/{entry['body']['report']}.json")
    gate = report["verdict"]["gates"][0]
    gained = record.candidate.metrics["holdout/quiz/acc"] - theirs["holdout/quiz/acc"]
    assert gate["difference"] == pytest.approx(gained)
    assert "against the champion" in gate["detail"]
    card = runs.attach(candidate.run_id).download("card/card.md", store / "shown").read_text()
    row = next(line for line in card.splitlines() if line.startswith("| holdout/quiz/acc |"))
    assert row.split("|")[4].strip().startswith(f"{theirs['holdout/quiz/acc']:.3f} (")


def test_the_verdict_over_a_candidate_names_the_command_too(store, champion, adapters):
    policy = Policy.from_yaml(write_policy(store, POLICY_TEXT.replace("TASK", "intent/exact_match")))
    number = add_version(adapters[1], right=55, digest="new")
    verdict = promotion.judge(policy, versions.get("bot", number).run_id)
    assert verdict.decision == "inconclusive"
    assert verdict.notes[0].endswith("tunesmith evaluate models:/bot/1 --experiment EXPERIMENT --split holdout")


def test_later_scores_of_other_weights_are_not_judged_by(store, invoke, champion, adapters):
    write_policy(store, POLICY_TEXT.replace("TASK", "intent/exact_match"))
    ours = evidence.load(versions.get("bot", add_version(adapters[1], right=55, digest="new")).run_id)
    run, first = runs.attach(champion.run_id), evidence.load(champion.run_id)
    assert ours.adapter_sha256 != first.adapter_sha256
    evidence.save_also(run, ours)
    done = invoke("promote", POLICY)
    assert done.exit_code == 1
    assert "holds scores of another model; score it again" in done.stderr
    mended = replace(ours, adapter_sha256=first.adapter_sha256)
    evidence.save_also(run, mended)
    assert "their digest" in invoke("promote", POLICY).stderr
    aliases.note("bot", SCORES, {"run": run.id, "evidence_sha256": mended.sha256})
    assert invoke("promote", POLICY).exit_code == 0


def test_a_policy_that_does_not_compare_with_the_champion_does_not_ask_for_its_scores(
    store, invoke, champion, adapters
):
    write_policy(store, POLICY_TEXT.replace("TASK", "intent/exact_match").replace("than_champion", "than_base"))
    add_version(adapters[1], right=55, digest="new")
    assert invoke("promote", POLICY).exit_code == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("0" * 32, "is not a registered version; write models:/NAME@ALIAS or models:/NAME/NUMBER"),
        ("models:/bot@challenger", "no version of bot has that alias"),
        ("models:/bot/9", "bot: version 9 does not exist"),
    ],
)
def test_only_registered_versions_are_scored_on_the_holdout(store, invoke, model, message):
    uses = len(ledger.read("bot").entries)
    done = invoke("evaluate", model, "--experiment", EXPERIMENT, "--split", "holdout")
    assert done.exit_code == 1
    assert message in done.stderr
    assert len(ledger.read("bot").entries) == uses


def test_a_version_is_found_by_alias_and_number(store):
    assert versions.find("models:/bot@candidate") == versions.get("bot", "2") == versions.find("models:/bot/2")
