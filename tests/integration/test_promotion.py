"""Promotion, rollback and the ledger, on real packages of the tiny model and a real store."""

import json
import pathlib
import shutil

import pytest
from tests import tampering
from tests.versions import POLICY, POLICY_TEXT, add_version, make_run, write_policy

from tunesmith.registry import versions
from tunesmith.tracking import store as tracking_store


@pytest.fixture
def project(registered_project):
    return registered_project


def client():
    return tracking_store.client()


def set_candidate(number):
    client().set_registered_model_alias("bot", "candidate", number)


def champion():
    return str(client().get_model_version_by_alias("bot", "champion").version)


def artifact(run_id, name):
    """Where an artifact lies: not a copy."""
    return pathlib.Path(client().get_run(run_id).info.artifact_uri.removeprefix("file://")) / name


def refused(done, message, *, code=1):
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.exit_code == code, done.output + done.stderr
    assert len(lines) == 1
    assert message in lines[0], lines[0]
    assert "Traceback" not in done.stderr


def test_a_promotion_is_recorded_with_who_why_and_what_it_rests_on(store, invoke):
    done = invoke("promote", POLICY, "--reason", "better at intents", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["version"] == champion() == "2"
    found = json.loads(invoke("history", POLICY, "--json").stdout)
    intent = found["entries"][-2]
    assert found["faults"] == []
    assert intent["body"]["reason"] == "better at intents"
    assert (intent["body"]["version"], intent["body"]["was"]) == ("2", "1")
    assert found["entries"][-1]["action"] == "done"
    assert intent["by"]
    from tunesmith.registry import ledger

    book = ledger.read("bot")
    report = client().download_artifacts(book.run_id, f"reports/{intent['body']['report']}.json")
    assert json.loads(pathlib.Path(report).read_text())["verdict"]["gates"][0]["decision"] == "pass"


def test_a_rollback_restores_the_previous_champion_even_when_the_present_one_is_broken(store, invoke, monkeypatch):
    assert invoke("promote", POLICY).exit_code == 0
    client().delete_run(client().get_model_version("bot", "2").run_id)
    done = invoke("rollback", POLICY, "--reason", "complaints")
    assert done.exit_code == 0, done.stderr
    assert "champion is version 1 again (was 2)" in done.stdout
    assert champion() == "1"
    refused(invoke("rollback", POLICY), "version 1 is its first champion; there is nothing to return to")
    assert invoke("history", POLICY, "--verify").exit_code == 0


def test_a_worse_candidate_is_not_promoted_and_the_verdict_says_what_is_missing(store, invoke, adapters):
    add_version(adapters[2], right=31)
    done = invoke("promote", POLICY)
    refused(done, "bot: not promoted: the verdict is inconclusive")
    assert "points" in done.stderr
    assert "more items" in done.stderr
    assert champion() == "1"


def test_a_hand_edited_alias_is_reported_and_undone_by_a_rollback(store, invoke):
    client().set_registered_model_alias("bot", "champion", "3")
    refused(invoke("history", POLICY, "--verify"), "names version 3, the ledger says version 1; it was edited past")
    refused(invoke("promote", POLICY), "edited past Tunesmith; `tunesmith rollback` restores")
    assert "champion is version 1 again (was 3)" in invoke("rollback", POLICY).stdout
    assert invoke("history", POLICY, "--verify").exit_code == 0
    assert champion() == "1"


def test_a_version_deleted_under_the_alias_is_reported_and_passed_over(store, invoke):
    assert invoke("promote", POLICY).exit_code == 0
    client().delete_model_version("bot", "2")
    refused(invoke("history", POLICY, "--verify"), "the alias champion is gone")
    done = invoke("rollback", POLICY)
    assert "version 2 does not exist; it was deleted" in done.stdout
    assert champion() == "1"
    client().delete_model_version("bot", "1")
    refused(invoke("rollback", POLICY), "there is nothing to return to: bot: version 1 does not exist")


def test_an_unexpected_champion_stops_a_promotion(store, invoke):
    refused(invoke("promote", POLICY, "--expect", "7"), "the champion is version 1, not 7 as expected")
    assert invoke("promote", POLICY, "--expect", "1").exit_code == 0


def test_a_champion_that_changed_while_judging_stops_a_promotion(store, invoke, monkeypatch):
    from tunesmith import promotion
    from tunesmith.registry import aliases

    judge = promotion.judge

    def meanwhile(policy, run_id):
        verdict = judge(policy, run_id)
        aliases.move("bot", "3", what="promote", expected="1", body={"reason": "by another"})
        return verdict

    monkeypatch.setattr(promotion, "judge", meanwhile)
    refused(invoke("promote", POLICY), "the champion is version 3 by now, not 1 as expected; judge again")
    assert champion() == "3"


def test_a_damaged_former_champion_is_passed_over_by_a_rollback(store, invoke):
    assert invoke("promote", POLICY).exit_code == 0
    set_candidate("3")
    write_policy(store, POLICY_TEXT.replace("beats_champion", "no_worse_than_champion, margin: 0.1"))
    assert invoke("promote", POLICY).exit_code == 0
    package = versions.fetch(versions.get("bot", "2")) / versions.PACKAGE
    kept = (package / tampering.WEIGHTS).read_bytes()
    tampering.flip(tampering.WEIGHTS)(package)
    try:
        done = invoke("rollback", POLICY)
    finally:
        (package / tampering.WEIGHTS).write_bytes(kept)
    assert done.exit_code == 0, done.stderr
    assert f"bot version 2: {tampering.WEIGHTS}: was changed" in done.stdout
    assert "champion is version 1 again (was 3)" in done.stdout
    assert champion() == "1"


@pytest.mark.parametrize("command", [("rollback", POLICY), ("copy", "sqlite:///other.db", "--policy", POLICY)])
def test_who_is_not_on_the_list_may_neither_roll_back_nor_copy(store, invoke, command):
    write_policy(store, POLICY_TEXT + "principals: [nobody-else]\n")
    refused(invoke(*command), "is not on the list and may not move bot")


def test_there_is_nothing_to_promote_or_roll_back_in_an_empty_registry(store, invoke):
    client().delete_registered_model_alias("bot", "candidate")
    refused(invoke("promote", POLICY), "bot: has no candidate; run a sweep first")
    write_policy(store, POLICY_TEXT.replace("model: bot", "model: nobody"))
    refused(invoke("promote", POLICY), "nobody: has no candidate; run a sweep first")
    refused(invoke("rollback", POLICY), "nobody: is not in the registry of sqlite:///")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (POLICY_TEXT + "principals: [nobody-else]\n", "registry/bot.yaml:6: principals:"),
        (POLICY_TEXT + "holdout_budget: 1\n", "the holdout's budget is used up (this is use 2 of 1)"),
    ],
)
def test_the_policys_limits_hold(store, invoke, policy, message):
    from tunesmith.registry import aliases, evidence

    for number in ("1", "2"):
        run = versions.get("bot", number).run_id
        aliases.note("bot", "holdout", {"items": evidence.load(run).items, "run": run})
    write_policy(store, policy)
    refused(invoke("promote", POLICY), message)
    assert champion() == "1"


def test_a_used_up_holdout_can_be_reused_knowingly(store, invoke):
    from tunesmith.registry import aliases, evidence

    for number in ("1", "2"):
        run = versions.get("bot", number).run_id
        aliases.note("bot", "holdout", {"items": evidence.load(run).items, "run": run})
    write_policy(store, POLICY_TEXT + "holdout_budget: 1\n")
    assert invoke("promote", POLICY, "--reuse-holdout").exit_code == 0
    assert "[2 of 1, reused past its budget]" in invoke("history", POLICY).stdout


def test_a_metric_that_was_never_logged_is_named_with_its_line(store, invoke):
    write_policy(store, POLICY_TEXT.replace("intent/exact_match", "intent/exact_mach"))
    message = "registry/bot.yaml:4: gates.0.metric: holdout/intent/exact_mach was never logged on run"
    refused(invoke("promote", POLICY), message, code=2)


@pytest.mark.parametrize(
    ("status", "message"),
    [("FAILED", "ended as FAILED"), ("KILLED", "ended as KILLED"), ("RUNNING", "has not finished")],
)
def test_a_run_that_did_not_finish_is_refused(store, invoke, status, message):
    run_id = client().get_model_version("bot", "2").run_id
    client().set_tag(run_id, "tunesmith.status", status)
    refused(invoke("promote", POLICY), message)


def test_a_winner_that_was_never_confirmed_needs_force(store, invoke):
    run_id = client().get_model_version("bot", "2").run_id
    client().set_tag(run_id, "tunesmith.kind", "trial")
    refused(invoke("promote", POLICY), "was never confirmed on fresh seeds")
    assert invoke("promote", POLICY, "--force").exit_code == 0
    assert "never confirmed]" in invoke("history", POLICY).stdout


def test_an_unscored_run_and_stale_scores_are_refused(store, invoke, adapters):
    from tunesmith.registry import evidence
    from tunesmith.tracking import runs

    run = runs.attach(client().get_model_version("bot", "2").run_id)
    path = artifact(run.id, evidence.ARTIFACT)
    kept = path.read_text()
    try:
        path.write_text(kept.replace('"digest": "same"', '"digest": "other"'))
        refused(invoke("promote", POLICY), "is stale: the holdout scores it was made with has the digest other")
        other = make_run(adapters[2], right=50)
        path.write_text(artifact(other.id, evidence.ARTIFACT).read_text())
        refused(invoke("promote", POLICY), "is stale: the adapter it was made with")
        path.write_text(kept.replace('"exact_match": 0.0', '"exact_match": 1.0', 1))
        refused(invoke("promote", POLICY), "was changed after the model was registered")
        path.unlink()
        refused(invoke("promote", POLICY), "has not been scored on the holdout")
    finally:
        path.write_text(kept)


def test_a_champion_whose_scores_were_changed_is_not_judged_by(store, invoke):
    from tunesmith.registry import evidence

    write_policy(store, POLICY_TEXT)
    path = artifact(client().get_model_version("bot", "1").run_id, evidence.ARTIFACT)
    kept = path.read_text()
    try:
        path.write_text(kept.replace('"exact_match": 1.0', '"exact_match": 0.0', 1))
        refused(invoke("promote", POLICY), "the champion, version 1, were changed since it was promoted")
    finally:
        path.write_text(kept)
    assert invoke("promote", POLICY).exit_code == 0


def test_the_registry_page_and_the_model_card_say_what_the_version_is(store, invoke):
    card = "card: {intended_use: 'Answers <customers>', limits: [no legal advice], base_licence: Apache-2.0}\n"
    write_policy(store, POLICY_TEXT + card)
    assert invoke("promote", POLICY).exit_code == 0
    version = client().get_model_version("bot", "2")
    assert version.tags["tunesmith.verdict"] == "pass"
    assert "| holdout/intent/exact_match | 0.917 | 0.167 | +0.750 |" in version.description
    assert f"/runs/{version.run_id}" in version.description
    assert "Answers <customers>" in client().get_registered_model("bot").description
    folder = artifact(version.run_id, "card")
    markdown, html = (folder / "card.md").read_text(), (folder / "card.html").read_text()
    assert "Answers &lt;customers&gt;" in html
    parts = "no legal advice|Apache-2.0|method.learning_rate|0.917 (|0.500 (|not measured|kWh|audit: not recorded"
    for part in parts.split("|"):
        assert part in markdown
        assert part in html
    shutil.rmtree(folder)


LEDGER_DAMAGE = [
    ("update params set value = replace(value, 'first', 'worst') where key = '000001'", "entry 1 was changed"),
    ("update params set value = replace(value, 'done', 'gone') where key = '000002'", "entry 2 was changed"),
    ("delete from params where key = '000002'", "entry 2 is missing: the ledger was cut off at its end"),
    ("delete from params where key = '000001'", "entry 1 is missing"),
    ("update params set value = 'x' where key = '000002'", "entry 2 was changed: it is not an entry any more"),
]


@pytest.mark.parametrize(("sql", "message"), LEDGER_DAMAGE)
def test_an_edited_or_cut_ledger_is_told_by_its_first_bad_entry(store, invoke, sql, message):
    import sqlite3

    with sqlite3.connect(store / "mlflow.db") as database:
        ledger = client().get_registered_model("bot").tags["tunesmith.ledger"]
        assert database.execute(f"{sql} and run_uuid = '{ledger}'").rowcount == 1
    refused(invoke("history", POLICY, "--verify"), message)
    refused(invoke("promote", POLICY), "the ledger cannot be trusted")


def test_a_deleted_ledger_is_told_with_the_way_back(store, invoke):
    ledger = client().get_registered_model("bot").tags["tunesmith.ledger"]
    client().delete_run(ledger)
    refused(invoke("history", POLICY), f"restore it: mlflow runs restore --run-id {ledger}")


def test_a_noted_head_must_still_be_there(store, invoke):
    head = json.loads(invoke("history", POLICY, "--json").stdout)["head"]
    assert invoke("promote", POLICY).exit_code == 0
    assert invoke("history", POLICY, "--head", head).exit_code == 0
    refused(invoke("history", POLICY, "--head", "0" * 64), "the ledger was rewritten")
