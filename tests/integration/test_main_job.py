"""The main job through real `mlflow run`, on the tiny model: run tree, registry, promotion, rollback."""

import json
import pathlib
import re
import subprocess
import sys

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState
from tests.conftest import environment
from tests.sweeps import mlflow_run, runs_by_kind

from tunesmith.models.references import resolve
from tunesmith.sweep import account


def entries(client, model):
    """What a model's ledger holds."""
    ledger = client.get_registered_model(model).tags["tunesmith.ledger"]
    return [json.loads(text) for _, text in sorted(client.get_run(ledger).data.params.items())]


@pytest.fixture
def project(finished):
    return finished[0]


@pytest.fixture
def client(project):
    return MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


def test_the_run_tree_is_one_sweep_with_all_its_children(client):
    kinds = runs_by_kind(client)
    assert {kind: len(found) for kind, found in kinds.items()} == {
        "sweep": 1, "base": 1, "trial": 4, "confirmation": 1, "holdout": 2, "ledger": 1,
    }  # fmt: skip
    parent = kinds["sweep"][0]
    children = [run for kind, found in kinds.items() if kind not in {"sweep", "ledger"} for run in found]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert children[0].data.tags["mlflow.runName"] in {run.info.run_name for run in children}
    first = min(children, key=lambda run: run.info.start_time)
    assert first.data.tags["tunesmith.kind"] == "base"


def test_every_status_is_true(client):
    for run in (run for found in runs_by_kind(client).values() for run in found):
        assert run.info.status == run.data.tags["tunesmith.status"] in {"FINISHED", "KILLED"}
    trials = runs_by_kind(client)["trial"]
    whole = [run.data.tags["tunesmith.trial"] for run in trials if run.info.status == "FINISHED"]
    assert whole == ["0", "3"]  # the best of the first three, and the last, which came after that had gone on
    reasons = {run.data.tags["tunesmith.reason"] for run in trials if run.info.status == "KILLED"}
    assert all(re.fullmatch(r"halved: others were better after 20% of the steps", reason) for reason in reasons)


def test_trials_log_params_curves_scores_and_the_command_that_repeats_them(client):
    trial = next(run for run in runs_by_kind(client)["trial"] if run.info.status == "FINISHED")
    assert set(trial.data.params) == {"method.learning_rate", "method.batch_size", "method.epochs"}
    assert {"train/loss", "tune/loss", "tune/intent/exact_match", "tune/quiz/acc", "train/tokens_per_second"} <= set(
        trial.data.metrics
    )
    steps = [point.step for point in client.get_metric_history(trial.info.run_id, "train/loss")]
    assert steps == list(range(1, len(steps) + 1))
    assert len(client.get_metric_history(trial.info.run_id, "tune/loss")) == 3
    command = trial.data.tags["tunesmith.command"]
    assert command.startswith("mlflow run . -e sft -P experiment=experiments/smoke.yaml -P ")
    assert "data.train_rows=24" in command


def test_the_report_knows_a_finished_trials_tune_loss_from_the_middle_of_its_training_too(project, client, monkeypatch):
    """Where it was not judged: what the report tells overfitting by."""
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{project / 'optuna.db'}")
    trials = optuna.load_study(study_name=study.study_name, storage=f"sqlite:///{project / 'optuna.db'}").get_trials(
        states=[TrialState.COMPLETE]
    )
    assert set(trials[0].intermediate_values) == {20, 100}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
    record = account._trial(trials[0])
    assert list(record.judged) == [20, 60, 100]
    logged = client.get_metric_history(record.run_id, "tune/loss")
    assert list(record.judged.values()) == pytest.approx([point.value for point in logged])


def test_the_sweep_logs_best_params_importances_plots_and_lineage(client):
    parent = runs_by_kind(client)["sweep"][0]
    assert {"best.method.learning_rate", "best.method.batch_size", "best.method.epochs"} <= set(parent.data.params)
    assert any(name.startswith("importance/") for name in parent.data.metrics)
    assert {"base_sha256", "data_sha256", "config_sha256", "threads", "seed", "winner_run"} <= {
        tag.removeprefix("tunesmith.") for tag in parent.data.tags
    }
    page = pathlib.Path(client.download_artifacts(parent.info.run_id, "report/search.html")).read_text()
    assert all(run.info.run_id in page for run in runs_by_kind(client)["trial"])
    assert 'src="http' not in page
    base = runs_by_kind(client)["base"][0].data.metrics["tune/loss"]
    assert f", base {base:.3f} (" in page
    assert {item.dataset.name for item in parent.inputs.dataset_inputs} == {"train", "tune"}


def test_the_winner_is_registered_judged_and_champion(client, finished):
    candidate = client.get_model_version_by_alias("smoke-bot", "candidate")
    champion = client.get_model_version_by_alias("smoke-bot", "champion")
    assert str(candidate.version) == str(champion.version) == "1"
    winner = runs_by_kind(client)["confirmation"][0]
    assert champion.run_id == winner.info.run_id
    assert winner.info.end_time < runs_by_kind(client)["holdout"][0].info.start_time
    version = client.get_model_version("smoke-bot", "1")
    assert version.tags["tunesmith.verdict"] == "pass"
    assert float(version.tags["tunesmith.package.load_seconds"]) > 0
    assert "winner's curse: tune loss changed by" in version.description
    cards = {item.path for item in client.list_artifacts(winner.info.run_id, "card")}
    assert cards == {"card/card.md", "card/card.html"}
    stored = client.download_artifacts(winner.info.run_id, "evaluation/holdout.json")
    evidence = json.loads(pathlib.Path(stored).read_text())
    assert evidence["candidate"]["digest"] == evidence["base"]["digest"]
    assert len(evidence["candidate"]["items"]["intent"]) == 21
    intent = next(entry for entry in entries(client, "smoke-bot") if entry["action"] == "intent")
    assert intent["body"]["reason"] == f"main: winner of sweep {runs_by_kind(client)['sweep'][0].info.run_id}"
    assert "winner: trial" in finished[1].stderr
    assert "version 1 is champion" in finished[1].stdout


def test_the_winners_card_tells_how_it_was_made(client):
    kinds = runs_by_kind(client)
    sweep, winner = kinds["sweep"][0].info.run_id, kinds["confirmation"][0].info.run_id
    card = pathlib.Path(client.download_artifacts(winner, "card/card.md")).read_text()
    for kind, run_id in (("sweep", sweep), ("confirmation", winner)):
        assert re.search(rf"^- {kind}: \[.*\]\(#/experiments/\d+/runs/{run_id}\), \d+ s", card, re.MULTILINE)
    data = client.get_run(sweep).data.tags["tunesmith.data_sha256"]
    assert f"- source: smoke/conversations.jsonl, SHA-256 {data}" in card
    assert "- audit: passed\n- audit/" in card
    assert "Searched: method.learning_rate {" in card
    assert re.search(
        r"^\| holdout/intent/exact_match \| [\d.]+ \([\d.]+ to [\d.]+\) \| .* \| none \|$", card, re.MULTILINE
    )
    assert re.search(r"^[\d.]+ hours on \w+ \d+ cores; about [\d.]+ kWh at", card, re.MULTILINE)


def test_the_registered_model_loads_and_answers_without_tunesmith(finished, tmp_path):
    """In a process whose path has no Tunesmith, the code beside the model is used."""
    code = """
import sys, mlflow
sys.path = [folder for folder in sys.path if not folder.endswith("/src")]  # an editable install
try:
    import tunesmith
    sys.exit("tunesmith is importable here")
except ImportError:
    pass
model = mlflow.pyfunc.load_model("models:/smoke-bot@champion")
answer = model.predict({"messages": [{"role": "user", "content": "What is the opposite of hot?"}], "max_tokens": 5})
import tunesmith
assert "/code" in tunesmith.__file__, tunesmith.__file__
choice = answer["choices"][0]
assert choice["message"]["role"] == "assistant" and isinstance(choice["message"]["content"], str)
assert answer["usage"]["completion_tokens"] <= 5
print("answered")
"""
    env = environment(MLFLOW_TRACKING_URI=f"sqlite:///{finished[0] / 'mlflow.db'}")
    env.pop("PYTHONPATH")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("answered"), done.stderr[-3000:]


def test_a_second_promotion_is_refused_and_the_first_champion_cannot_be_rolled_back(project, invoke):
    promoted = mlflow_run(project, "promote", "-P", "policy=registry/smoke.yaml")
    assert promoted.returncode != 0
    assert "error: smoke-bot: version 1 is champion already" in promoted.stderr
    rolled = invoke("rollback", "registry/smoke.yaml")
    assert rolled.exit_code == 1
    assert "error: smoke-bot: version 1 is its first champion; there is nothing to return to" in rolled.stderr


def test_a_confirmation_is_replayed_to_the_bit(client, invoke):
    done = invoke("replay", runs_by_kind(client)["confirmation"][0].info.run_id, "--json")
    assert done.exit_code == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["outcome"] == "identical"


def test_the_winner_of_a_sweep_can_be_gone_on_from(store, client):
    """Its run is a confirmation, whose base is recorded on the sweep."""
    winner = runs_by_kind(client)["confirmation"][0]
    found = resolve(f"runs:/{winner.info.run_id}")
    assert found.adapter_sha256 == winner.data.tags["tunesmith.adapter_sha256"]
    assert found.sha256 == runs_by_kind(client)["sweep"][0].data.tags["tunesmith.base_sha256"]


def test_a_trial_is_replayed_with_the_losses_it_had_in_the_sweep(client, invoke):
    """To the bit where it trained alone; within rounding where others shared its passes."""
    trial = next(run for run in runs_by_kind(client)["trial"] if run.info.status == "FINISHED")
    done = invoke("replay", trial.info.run_id, "--json")
    assert done.exit_code == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["outcome"] in {"identical", "close"}
    assert found["recorded_sha256"] == trial.data.tags["tunesmith.adapter_sha256"] != ""
    replays = {run.data.tags["tunesmith.replays"]: run for run in runs_by_kind(client)["replay"]}
    assert replays[trial.info.run_id].data.tags["tunesmith.outcome"] == found["outcome"]
