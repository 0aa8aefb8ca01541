"""Promotion against a real tracking server that hands out artifacts itself, with a webhook of MLflow's own."""

import json
import subprocess
import sys
import time

import pytest
from cryptography.fernet import Fernet
from tests import tampering
from tests.conftest import environment
from tests.servers import receiver, tracking_server
from tests.versions import POLICY, add_version, write_policy

from tunesmith.registry import versions
from tunesmith.tracking import store as tracking_store

# loopback is neither https nor public: what a real webhook must be
LOOPBACK = {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}


@pytest.fixture
def served(store, monkeypatch):
    """A project whose tracking store is a server; MLflow calls a receiver when an alias is set."""
    secrets = {"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode()}
    with receiver() as (url, heard), tracking_server(store, **LOOPBACK, **secrets) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        tracking_store.client.cache_clear()
        events = ["model_version_alias.created"]
        tracking_store.client().create_webhook("deploy", url, events, secret="between the two of us")
        write_policy(store)
        yield store, heard
        tracking_store.client.cache_clear()


def test_promotion_rollback_and_history_work_through_a_tracking_server(served, invoke, adapters, tmp_path):
    project, heard = served
    for adapter, right in zip(adapters, (30, 55), strict=False):
        add_version(adapter, right=right)
        done = invoke("promote", POLICY, "--json")
        assert done.exit_code == 0, done.stderr
    client = tracking_store.client()
    version = client.get_model_version("bot", "2")
    assert client.get_run(version.run_id).info.artifact_uri.startswith("mlflow-artifacts:/")
    assert not (project / "mlruns").exists()
    assert str(client.get_model_version_by_alias("bot", "champion").version) == "2"
    assert "| holdout/intent/exact_match | 0.917 | 0.167 | +0.750 |" in version.description

    downloads = tmp_path / "downloads"
    downloads.mkdir()
    command = [sys.executable, "-m", "tunesmith", "rollback", POLICY, "--json"]
    env = environment(MLFLOW_TRACKING_URI=tracking_store.tracking_uri(), TMPDIR=str(downloads))
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == "1"
    assert str(client.get_model_version_by_alias("bot", "champion").version) == "1"
    assert list(downloads.iterdir()) == []

    assert invoke("history", POLICY, "--verify").exit_code == 0
    client.set_registered_model_alias("bot", "champion", "2")
    done = invoke("history", POLICY, "--verify")
    assert done.exit_code == 1
    assert "names version 2, the ledger says version 1" in done.stderr
    assert champions(heard, 4) == ["1", "2", "1", "2"]

    client.set_registered_model_alias("bot", "champion", "1")
    logged = version.source.removeprefix("models:/")
    (package,) = (project / "artifacts").glob(f"*/models/{logged}/artifacts/{versions.PACKAGE}")
    tampering.flip(tampering.WEIGHTS)(package)
    done = invoke("promote", POLICY)
    assert done.exit_code == 1
    assert f"error: bot version 2: {tampering.WEIGHTS}: was changed" in done.stderr


def champions(heard, count, seconds=20):
    """The versions that the webhook's receiver has been told of as champions, once there are so many; it comes late."""
    until = time.monotonic() + seconds
    told = []
    while time.monotonic() < until and len(told) < count:
        time.sleep(0.1)
        told = [body["data"]["version"] for _, body in heard if body["data"]["alias"] == "champion"]
    assert all(headers["X-MLflow-Signature"].startswith("v1,") for headers, _ in heard)
    return told
