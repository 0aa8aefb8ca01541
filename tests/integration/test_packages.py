"""Packages elsewhere: merged weights, another registry, MLflow's own server."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from tests.conftest import environment
from tests.versions import POLICY, POLICY_TEXT, add_version, write_policy

from tunesmith.errors import RegistryError
from tunesmith.tracking import store as tracking_store

REQUEST = {"messages": [{"role": "user", "content": "What is the opposite of hot?"}], "max_tokens": 8}


@pytest.fixture
def project(registered_project):
    return registered_project


def answer(number):
    import mlflow

    return mlflow.pyfunc.load_model(f"models:/bot/{number}").predict(REQUEST)["choices"][0]["message"]["content"]


def test_merged_weights_answer_as_the_adapter_does(store, adapters):
    write_policy(store, POLICY_TEXT + "package: merged\n")
    number = add_version(adapters[1], right=55)
    from tunesmith.registry import versions

    package = versions.verify(versions.get("bot", number))
    assert (package / "merged/model.safetensors").is_file()
    assert answer(number) == answer("2")


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


HIDE_SOURCES = "import sys\nsys.path[:] = [folder for folder in sys.path if not folder.endswith('/src')]\n"


def test_mlflow_serves_the_champion_without_tunesmith_installed(store, tmp_path):
    """A real request over HTTP; the server's Python cannot see this checkout's sources."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(HIDE_SOURCES)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"sqlite:///{store / 'mlflow.db'}"
    env = environment(MLFLOW_TRACKING_URI=uri, PYTHONPATH=str(tmp_path / "site"))
    assert subprocess.call([sys.executable, "-c", "import tunesmith"], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    command = [str(pathlib.Path(sys.executable).parent / "mlflow"), "models", "serve", "-m", "models:/bot@champion"]
    command += ["--env-manager", "local", "--port", str(port), "--host", "127.0.0.1", "--workers", "1"]
    log = (tmp_path / "server.log").open("w")
    server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        body = ask(f"http://127.0.0.1:{port}", server)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["usage"]["completion_tokens"] <= 8
    assert body["object"] == "chat.completion"


def ask(url, server, seconds=120):
    """The reply to a chat request, once the server is up."""
    until = time.monotonic() + seconds
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(REQUEST).encode(), {"Content-Type": "application/json"}
    )
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()[:2000]) from None
        except OSError:
            time.sleep(0.3)
    raise AssertionError("the server did not answer")
