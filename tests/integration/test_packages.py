"""Packages elsewhere: merged weights, another registry, MLflow's own server."""

import json
import shutil
import subprocess

import mlflow
import pytest
import yaml
from tests import tampering
from tests.servers import bare_environment, clean_python, scoring_server
from tests.versions import EXPERIMENT, POLICY, POLICY_TEXT, add_version, make_run, scores, write_policy

from tunesmith import promotion
from tunesmith.config import Experiment, Policy
from tunesmith.data.dataset import load_dataset
from tunesmith.errors import RegistryError
from tunesmith.models.references import resolve
from tunesmith.registry import versions
from tunesmith.tracking import store as tracking_store

REQUEST = {"messages": [{"role": "user", "content": "What is the opposite of hot?"}], "max_tokens": 8}


@pytest.fixture
def project(registered_project):
    return registered_project


def answer(number):
    return mlflow.pyfunc.load_model(f"models:/bot/{number}").predict(REQUEST)["choices"][0]["message"]["content"]


def test_merged_weights_answer_as_the_adapter_does(store, adapters):
    write_policy(store, POLICY_TEXT + "package: merged\n")
    number = add_version(adapters[1], right=55)
    package = versions.verify(versions.get("bot", number))
    assert (package / "merged/model.safetensors").is_file()
    assert answer(number) == answer("2")


def test_a_finished_run_stays_finished_while_its_model_is_logged(store, adapters, monkeypatch):
    run = make_run(adapters[0], right=30)
    before, seen, save = run_info(run.id), [], mlflow.pyfunc.save_model

    def watched(*arguments, **options):
        seen.append(run_info(run.id))  # who is killed here leaves the run like this
        save(*arguments, **options)

    monkeypatch.setattr(mlflow.pyfunc, "save_model", watched)
    package = versions.fetch(versions.get("bot", "1")) / versions.PACKAGE
    number = versions.register(package, run, "bot", tags={})
    assert [*seen, run_info(run.id)] == [before, before]
    assert before[0] == "FINISHED"
    client = tracking_store.client()
    logged = client.get_logged_model(versions.get("bot", number).source.removeprefix("models:/"))
    assert (logged.source_run_id, logged.experiment_id) == (run.id, run.experiment_id)
    assert logged.status == "READY"


def test_a_run_becomes_one_version_however_often_a_sweep_comes_to_register_it(store, adapters):
    """A sweep may be killed when it has registered its winner; a version that others made of the run is not ours."""
    run, policy = make_run(adapters[0], right=55), Policy.from_yaml(POLICY)
    client, source = tracking_store.client(), versions.get("bot", "2").source
    client.create_model_version("bot", source, run_id=run.id)
    number = promotion.register(Experiment.from_yaml(EXPERIMENT), policy, run.id, scores(55))
    assert number == "5"
    versions.set_alias("bot", "candidate", "2")
    assert promotion.register(Experiment.from_yaml(EXPERIMENT), policy, run.id, scores(55)) == number
    assert len(client.search_model_versions("name = 'bot'")) == 5
    assert versions.by_alias("bot", "candidate").number == number
    assert versions.verify(versions.get("bot", number)).is_dir()


def run_info(run_id):
    info = tracking_store.client().get_run(run_id).info
    return info.status, info.end_time


def test_merged_weights_that_differ_are_refused(tokenizer):
    import torch

    from tunesmith.registry.merged import check_parity, check_template

    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    check_parity(logits, logits * (1 + 1e-5), 1e-3)
    for wrong in (logits * 1.01, logits * float("nan")):
        with pytest.raises(RegistryError, match="merged: the merged weights change the logits"):
            check_parity(logits, wrong, 1e-3)
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = tokenizer.chat_template + "!"
    with pytest.raises(RegistryError, match="its chat template renders"):
        check_template(other, tokenizer)


def test_a_copy_is_verified_and_can_be_promoted_in_the_other_registry(store, invoke, empty_store, monkeypatch):
    (store / "production").mkdir()
    shutil.copy(empty_store, store / "production/mlflow.db")
    target = f"sqlite:///{store / 'production/mlflow.db'}"
    done = invoke("copy", target, "--policy", POLICY, "--version", "2", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {"target": target, "source_version": "2", "version": "1"}
    sent = tracking_store.client().get_model_version("bot", "2")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", target)
    tracking_store.client.cache_clear()
    arrived = tracking_store.client().get_model_version("bot", "1")
    assert arrived.tags["tunesmith.package_sha256"] == sent.tags["tunesmith.package_sha256"]
    assert str(store / "production") in tracking_store.client().get_run(arrived.run_id).info.artifact_uri
    assert invoke("promote", POLICY).exit_code == 0
    text = invoke("history", POLICY, "--verify").stdout
    assert "models:/bot/2" in text
    assert "promote version 1" in text


def test_copying_to_itself_or_a_version_that_is_not_there_is_refused(store, invoke):
    done = invoke("copy", tracking_store.tracking_uri(), "--policy", POLICY)
    assert done.exit_code == 1
    assert "is the registry that bot is in already" in done.stderr
    done = invoke("copy", f"sqlite:///{store}/other.db", "--policy", POLICY, "--version", "9")
    assert "bot: version 9 does not exist" in done.stderr


@pytest.fixture
def elsewhere(tmp_path):
    """A Python with the packages that a version requires, but not Tunesmith, and a folder to work in."""
    python, folder = clean_python(tmp_path / "clean"), tmp_path / "elsewhere"
    folder.mkdir()
    code = "import importlib.util as u; print([bool(u.find_spec(name)) for name in ('mlflow', 'torch', 'tunesmith')])"
    done = subprocess.run(
        [python, "-c", code], cwd=folder, env=bare_environment(python), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[True, True, False]"
    return python, folder


def test_mlflow_serves_the_champion_where_tunesmith_is_not_installed(store, elsewhere, tmp_path):
    """A real request over HTTP, while another server is refused a copy of the model of which one byte was changed."""
    python, folder = elsewhere
    uri = f"sqlite:///{store / 'mlflow.db'}"
    changed = shutil.copytree(versions.fetch(versions.get("bot", "1")), tmp_path / "changed")
    tampering.flip(tampering.WEIGHTS)(changed / versions.PACKAGE)
    (tmp_path / "refused").mkdir()
    with (
        scoring_server(python, folder, "models:/bot@champion", uri=uri) as server,
        scoring_server(python, tmp_path / "refused", str(changed), uri=uri) as other,
    ):
        body = server.ask(REQUEST)
        said = other.refusal()
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["choices"][0]["message"]["content"] == answer("1")
    assert body["usage"]["completion_tokens"] <= 8
    assert body["object"] == "chat.completion"
    assert f"RegistryError: {tampering.WEIGHTS}: was changed" in said


def test_a_version_is_an_mlflow_model_from_code_with_all_that_made_it(store):
    folder = versions.fetch(versions.get("bot", "1"))
    logged = yaml.safe_load((folder / "MLmodel").read_text())
    flavor = logged["flavors"]["python_function"]
    assert flavor["loader_module"] == "mlflow.pyfunc.loaders.code_model"
    assert "python_model" not in flavor  # where MLflow keeps a pickled one
    assert flavor["code"] == "code"
    assert (folder / "code/tunesmith/registry/chat_model.py").is_file()
    assert not [path for path in folder.rglob("*") if path.suffix in {".pkl", ".bin", ".pt"}]
    inputs, outputs = (json.loads(logged["signature"][side]) for side in ("inputs", "outputs"))
    assert "messages" in {column["name"] for column in inputs}
    assert "choices" in {column["name"] for column in outputs}
    example = json.loads((folder / logged["saved_input_example_info"]["artifact_path"]).read_text())
    assert example["messages"][0]["role"] == "user"

    package = folder / versions.PACKAGE
    data, base = (json.loads((package / name).read_text()) for name in ("data.json", "base.json"))
    dataset = load_dataset(Experiment.from_yaml(EXPERIMENT))
    assert data["source_sha256"] == dataset.digest
    assert data["holdout_sha256"] == dataset.holdout.digest
    assert data["scores_digest"] == "same"
    assert base == {"reference": "bundled:tiny-llama", "revision": None, "sha256": resolve("bundled:tiny-llama").sha256}
    assert json.loads((package / "experiment.json").read_text()) == Experiment.from_yaml(EXPERIMENT).tree()
    assert json.loads((package / "generation.json").read_text()) == {"max_new_tokens": 256, "do_sample": False}
    assert (package / "tokenizer/chat_template.jinja").is_file()
    assert f"mlflow=={mlflow.__version__}" in (package / "requirements.txt").read_text().split()
    assert sum(path.stat().st_size for path in (package / "adapter").iterdir()) < 1_000_000
