"""A training that goes on from another's adapter: what it records, and what the card says of both."""

import json
import pathlib

import pytest
from click.testing import CliRunner
from tests.conftest import copy_project
from tests.versions import scores, write_policy

from tunesmith import promotion
from tunesmith.cli import main
from tunesmith.config import Experiment, Policy, overrides
from tunesmith.judgement import judge
from tunesmith.models.references import resolve
from tunesmith.registry import card, evidence, lineage, versions
from tunesmith.tracking import runs
from tunesmith.tracking.store import client

PAIRS = "experiments/support-dpo.yaml"
SPACE = """
coarse: {params: {method.beta: [0.05, 0.5]}}
confirm: {top: 1, seeds: 1}
params:
  method.beta: {kind: float, low: 0.02, high: 0.5, log: true}
  method.loss: {kind: categorical, choices: [sigmoid, ipo]}
"""
GATES = "model: bot\ngates: [{metric: holdout/general/acc, rule: at_least, value: 0.0}]\n"
SMALL = {
    "data.train_rows": 16,
    "adapter.rank": 4,
    "adapter.alpha": 8.0,
    "evaluation.tasks": ["general"],
    "evaluation.primary": "tune/general/acc",
}


def settings(base):
    return [word for item in {**SMALL, "model.base": base}.items() for word in ("--set", "{}={}".format(*item))]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, empty_store):
    """A project with one finished run of `sft`, and the run's id."""
    folder = copy_project(tmp_path_factory.mktemp("chains") / "project", empty_store)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        client.cache_clear()
        done = CliRunner().invoke(main, ["sft", "experiments/smoke.yaml", "--set", "data.train_rows=16", "--json"])
        client.cache_clear()
    assert done.exit_code == 0, done.stderr
    return folder, json.loads(done.stdout)["run_id"]


@pytest.fixture
def project(tuned, tmp_path):
    """A project with a private copy of that one's database; the artifacts are shared."""
    return copy_project(tmp_path / "project", tuned[0] / "mlflow.db")


def test_dpo_goes_on_from_a_supervised_adapter_and_the_package_remembers_both(store, invoke, tuned):
    sft = runs.attach(tuned[1])
    refused = invoke("dpo", PAIRS, *settings(f"runs:/{sft.id}"), "--set", "adapter.rank=8")
    assert refused.exit_code == 2
    assert "adapter.rank" in refused.stderr

    done = invoke("dpo", PAIRS, *settings(f"runs:/{sft.id}"), "--json")
    assert done.exit_code == 0, done.stderr
    run = runs.attach(json.loads(done.stdout)["run_id"])
    tags = client().get_run(run.id).data.tags
    assert tags["tunesmith.parent_run"] == sft.id
    assert tags["tunesmith.parent_sha256"] == sft.tag("adapter_sha256")
    assert run.tag("adapter_sha256") != sft.tag("adapter_sha256")
    assert run.tag("base_sha256") == resolve("bundled:tiny-llama").sha256

    again = json.loads(invoke("replay", run.id, "--json").stdout)
    assert again["outcome"] == "identical"
    assert again["adapter_sha256"] == run.tag("adapter_sha256")

    experiment = overrides.apply(Experiment.from_yaml(PAIRS), {**SMALL, "model.base": f"runs:/{sft.id}"})
    policy = Policy.from_yaml(write_policy(store))
    evidence.save(run, candidate=scores(50), base=scores(10))
    version = versions.get("bot", promotion.register(experiment, policy, run.id, scores(50)))
    package = versions.verify(version)
    assert json.loads((package / "base.json").read_text())["reference"] == "bundled:tiny-llama"
    assert json.loads((package / "data.json").read_text())["parent_sha256"] == sft.tag("adapter_sha256")
    shown = card.render(policy, version, judge(policy, run.id))["card.md"]
    first, second = shown.index(sft.tag("adapter_sha256")[:12]), shown.index(run.tag("adapter_sha256")[:12])
    assert first < second
    assert sft.tag("data_sha256")[:12] in shown
    assert resolve(f"models:/bot/{version.number}").run_id == run.id
    run.metrics(dict(scores(50).metrics))
    run.flush()
    check_history(policy, invoke, sft=sft, dpo=run)


def check_history(policy, invoke, *, sft, dpo):
    """A champion's history names every training, its method, data and adapter, and what it went on from."""
    _, move = promotion.promote(policy, promotion.Request())
    assert move is not None
    shown = invoke("history", str(policy.path))
    assert shown.exit_code == 0, shown.stderr
    base, first, second = shown.stdout.splitlines()[-4:-1]
    assert base == f"version 1, champion, on bundled:tiny-llama {resolve('bundled:tiny-llama').sha256[:12]}"
    digests = [run.tag("adapter_sha256")[:12] for run in (sft, dpo)]
    data = [run.tag("data_sha256")[:12] for run in (sft, dpo)]
    assert first.strip() == f"sft: run {sft.id}, data {data[0]}, to adapter {digests[0]}"
    assert second.strip() == f"dpo: run {dpo.id}, data {data[1]}, from adapter {digests[0]}, to adapter {digests[1]}"
    (champion,) = json.loads(invoke("history", str(policy.path), "--json").stdout)["champions"]
    assert [training["run"] for training in champion["trainings"]] == [sft.id, dpo.id]


def stage(run, *, outermost=True, **known):
    lacking = dict.fromkeys(("method", "data_sha256", "parent_sha256", "adapter_sha256"), "")
    return {"id": run, "kind": "run", "outermost": outermost, **lacking, **known}


def test_a_sweep_and_its_winner_are_one_training():
    swept = stage("s", method="sft", data_sha256="d"), stage("c", outermost=False, adapter_sha256="a")
    found = lineage.trainings([*swept, stage("r", kind="dpo", parent_sha256="a", adapter_sha256="b")])
    assert found[0] == lineage.Training("sft", "c", "s", "d", "", "a")
    assert found[1] == lineage.Training("dpo", "r", "", "", "a", "b")


def test_a_lineage_says_where_its_runs_are_not_in_the_store(store, monkeypatch):
    run = runs.create("bot", "tuned", kind="dpo", tags={"parent_run": "0" * 32, "parent_sha256": "a" * 64})
    version = versions.Version("bot", "1", run.id, "", {"tunesmith.base": "bundled:tiny-llama"})
    monkeypatch.setattr(versions, "get", lambda name, number: version)
    found = lineage.lineage("bot", "1")
    assert [training.run for training in found.trainings] == [run.id]
    assert found.lost == "what was before is not in this store"


def test_a_sweep_of_dpo_goes_on_from_a_supervised_adapter_in_slots(project, invoke, tuned):
    base = f"runs:/{tuned[1]}"
    pathlib.Path("search_spaces/pairs.yaml").write_text(SPACE)
    options = ("--space", "search_spaces/pairs.yaml", "--policy", write_policy(project, GATES), "--trials", "2")
    done = invoke("sweep", PAIRS, *options, *settings(base), "--json")
    assert done.exit_code == 0, done.stderr
    parent = runs.attach(json.loads(done.stdout)["sweep_run"])
    found = client().search_runs([client().get_run(parent.id).info.experiment_id], "tags.`tunesmith.engine` != ''")
    trained = {run.data.tags["tunesmith.kind"]: run for run in found}
    assert trained.keys() >= {"trial", "confirmation"}
    for run in (trained["trial"], trained["confirmation"]):
        assert run.data.tags["tunesmith.engine"] == "slots"
        assert run.data.metrics.keys() >= {
            "train/accuracy",
            "train/reward_margin",
            "tune/accuracy",
            "tune/ranked_right",
        }


@pytest.mark.parametrize("reference", ["runs:/0123456789abcdef0123456789abcdef", "runs:/nonsense"])
def test_a_run_that_is_not_there_is_named(store, invoke, reference):
    done = invoke("dpo", PAIRS, *settings(reference))
    assert done.exit_code == 2
    assert reference in done.stderr.splitlines()[-1]
