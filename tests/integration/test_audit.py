"""The data desk at the command line: the logged report, curation, and training on data that failed."""

import json
import pathlib

import pytest
from mlflow import MlflowClient

DATA = "experiments/smoke/conversations.jsonl"
SMOKE = "experiments/smoke.yaml"


def runs_of_kind(project, kind):
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client, client.search_runs(experiments, f"tags.`tunesmith.kind` = '{kind}'")


@pytest.fixture
def spoilt(project):
    """The smoke data with a copy, and with a row that holds a mail address."""
    path = project / DATA
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    train = next(row for row in rows if row["intent"] == "capitals")
    private = json.loads(json.dumps({**train, "id": "private"}))
    private["messages"][0]["content"] = "My mail is jo@example.com. What do they call a young goat and a young horse?"
    rows += [{**rows[0], "id": "copy"}, private]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def test_an_audit_is_a_run_with_its_report(project, invoke):
    done = invoke("audit", SMOKE, "--html", "report.html", "--json")
    assert done.exit_code == 0, done.stderr
    value = json.loads(done.stdout)
    client, (run,) = runs_of_kind(project, "audit")
    assert run.info.status == "FINISHED"
    assert run.data.tags["tunesmith.verdict"] == "pass"
    assert run.data.tags["tunesmith.data_sha256"] == value["data_sha256"]
    assert run.data.metrics["audit/rows"] == 80
    assert {item.path for item in client.list_artifacts(run.info.run_id, "audit")} == {
        "audit/report.html",
        "audit/report.json",
    }
    page = (project / "report.html").read_text(encoding="utf-8")
    assert all(f">{finding['check']}<" in page for finding in value["findings"])
    assert "The data passes its audit" in page
    assert 'src="http' not in page


def test_an_audit_can_leave_no_trace(project, invoke):
    before = (project / "mlflow.db").read_bytes()
    assert invoke("audit", SMOKE, "--no-log").exit_code == 0
    assert (project / "mlflow.db").read_bytes() == before


def test_curated_data_passes_and_private_values_stay_in_the_ledger(project, invoke, spoilt):
    failed = invoke("audit", SMOKE, "--no-log")
    assert failed.exit_code == 1
    assert "jo@example.com" not in failed.stdout + failed.stderr
    assert "the data fails: personal data, duplicates" in failed.stdout
    done = invoke("audit", SMOKE, "--curate", "--json")
    assert done.exit_code == 0, done.stderr
    value = json.loads(done.stdout)
    assert (value["kept"], value["of"]) == (81, 82)
    kept = pathlib.Path(value["out"]).read_text(encoding="utf-8")
    assert "jo@example.com" not in kept
    assert "jo@example.com" in pathlib.Path(value["ledger"]).read_text(encoding="utf-8")
    (project / DATA).write_text(kept, encoding="utf-8")
    assert invoke("audit", SMOKE, "--no-log").exit_code == 0


def test_the_source_itself_is_never_overwritten(project, invoke):
    before = (project / DATA).read_bytes()
    done = invoke("audit", SMOKE, "--curate", "--out", DATA)
    assert done.exit_code == 2
    assert "is the source itself" in done.stderr
    assert (project / DATA).read_bytes() == before


def test_training_on_data_that_failed_must_be_forced_and_says_so(project, invoke, spoilt):
    refused = invoke("sft", SMOKE)
    assert refused.exit_code == 1
    assert "the data fails its audit: personal data: 1" in refused.stderr
    assert "data.force" in refused.stderr
    assert runs_of_kind(project, "sft")[1] == []
    forced = invoke("sft", SMOKE, "--set", "data.force=true")
    assert forced.exit_code == 0, forced.stderr
    (run,) = runs_of_kind(project, "sft")[1]
    assert run.data.tags["tunesmith.data_forced"] == "personal data, duplicates"
    assert "data.force=true" in run.data.tags["tunesmith.command"]


def test_the_base_models_losses_are_computed_once(project, invoke, monkeypatch, tmp_path, tiny_path):
    cache = tmp_path / "cache"
    (cache / "models").mkdir(parents=True)
    (cache / "models" / "tiny-llama").symlink_to(tiny_path)
    monkeypatch.setenv("TUNESMITH_CACHE", str(cache))
    first = invoke("audit", SMOKE, "--model", "--no-log", "--json")
    assert first.exit_code == 0, first.stderr
    (stored,) = (cache / "losses").glob("*.json")
    losses = json.loads(stored.read_text(encoding="utf-8"))
    assert len(losses) == 32
    assert all(prompted > 0 and alone > 0 for prompted, alone in losses.values())
    monkeypatch.setattr("tunesmith.audit.difficulty.BaseModel._compute", None)
    again = invoke("audit", SMOKE, "--model", "--no-log", "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout)["audit/base_loss"] == json.loads(first.stdout)["audit/base_loss"]


def test_the_raw_demo_fails_and_is_refused(root):
    from tunesmith.audit.checks import require_clean
    from tunesmith.config import Experiment, overrides
    from tunesmith.errors import OutcomeError

    experiment = Experiment.from_yaml(root / "experiments/raw.yaml")
    with pytest.raises(OutcomeError, match=r"raw\.yaml: the data fails its audit: turns: 75"):
        require_clean(experiment)
    report = require_clean(overrides.apply(experiment, {"data.force": True}))
    failed = {finding.check for finding in report.failed}
    assert {"turns", "empty turns", "encoding", "markup", "personal data", "secrets", "duplicates"} <= failed
    assert {
        "near duplicates",
        "contradictions",
        "holdout in train",
        "sanity in train",
        "task general in train",
    } <= failed
