"""A recorded run trained again: bit for bit, or the first step that differs."""

import json
import os
import pathlib
import re

import pytest
import torch

from tunesmith.replay import CLOSE, CLOSE_IN_BFLOAT16, first_other, judge
from tunesmith.tracking import store as tracking_store


@pytest.fixture
def recorded(store, invoke):
    """A finished `sft` run of the tiny model."""
    done = invoke("sft", "experiments/smoke.yaml", "--set", "method.epochs=1", "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["run_id"]


def test_a_replay_is_identical_until_the_record_or_the_data_change(store, invoke, recorded):
    """One training for the record, two replays: as it was, and with another learning rate in the record."""
    done = invoke("replay", recorded, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["outcome"] == "identical"
    assert found["adapter_sha256"] == found["recorded_sha256"] != ""
    assert found["step"] is None
    assert found["weights_step"] is None

    client = tracking_store.client()
    client.set_tag(recorded, "tunesmith.threads", str(torch.get_num_threads() + 1))
    before = (os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads())
    logged = json.loads(pathlib.Path(client.download_artifacts(recorded, "fingerprints.json")).read_text())
    assert logged
    tree = json.loads(pathlib.Path(client.download_artifacts(recorded, "experiment.json")).read_text())
    tree["method"]["learning_rate"] *= 1.5
    client.log_text(recorded, json.dumps(tree), "experiment.json")
    done = invoke("replay", recorded)
    assert (os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()) == before
    assert done.exit_code == 1
    assert "error: " in done.stderr
    step = re.search(r"the replay differs from step (\d) on", done.stderr).group(1)
    assert f"train/loss differs first at step {step}: " in done.stdout
    assert f"the weights differ first after step {min(map(int, logged))} (of every tenth" in done.stdout

    rows = store / "experiments/smoke/conversations.jsonl"
    rows.write_text(rows.read_text().replace("hot", "warm", 1))
    done = invoke("replay", recorded)
    assert done.exit_code == 2
    assert "conversations.jsonl: has the digest" in done.stderr


def test_runs_that_cannot_be_replayed_are_told(store, invoke):
    from tunesmith.tracking import runs

    unfinished = runs.create("smoke", "x", kind="sft")
    done = invoke("replay", unfinished.id)
    assert done.exit_code == 2
    assert "is a run of kind sft that is unfinished" in done.stderr
    halved = runs.create("smoke", "x", kind="trial")
    halved.finish("KILLED", reason="halved")
    done = invoke("replay", halved.id)
    assert done.exit_code == 2
    assert (
        "is a run of kind trial that is KILLED; finished runs of kind sft, dpo, kto, reward, rlhf, confirm"
        in done.stderr
    )
    warm = runs.create("smoke", "x", kind="trial", tags={"warm": 3})
    warm.finish("FINISHED")
    done = invoke("replay", warm.id)
    assert done.exit_code == 2
    assert (
        "began with the weights of trial 3, which no run keeps; a confirmation of it, which begins anew" in done.stderr
    )
    done = invoke("replay", "0" * 32)
    assert done.exit_code == 2
    assert "no such run" in done.stderr


@pytest.mark.parametrize(
    ("recorded", "found", "step"),
    [
        ({10: "a", 20: "b"}, {10: "a", 20: "b"}, None),
        ({10: "a", 20: "b", 24: "c"}, {10: "a", 20: "x", 24: "y"}, 20),
        ({10: "a", 12: "b"}, {10: "a", 20: "c"}, None),
        ({}, {10: "a"}, None),
    ],
)
def test_the_first_fingerprint_that_differs_is_named(recorded, found, step):
    assert first_other(recorded, found) == step


CURVE = {1: 3.0, 2: 2.5, 3: 2.0}


@pytest.mark.parametrize(
    ("losses", "same_bits", "expected"),
    [
        (CURVE, True, ("identical", None)),
        (CURVE, False, ("close", None)),
        ({**CURVE, 2: 2.5000001}, False, ("close", 2)),
        ({**CURVE, 2: 2.5000001, 3: 2.1}, False, ("different", 3)),
        ({1: 3.0, 2: 2.5}, False, ("different", 3)),
    ],
)
def test_the_outcome_of_a_comparison(losses, same_bits, expected):
    assert judge(CURVE, losses, same_bits=same_bits, close=CLOSE) == expected


def test_rounding_explains_more_in_bfloat16():
    off = {**CURVE, 2: 2.5 * 1.02}
    assert judge(CURVE, off, same_bits=False, close=CLOSE) == ("different", 2)
    assert judge(CURVE, off, same_bits=False, close=CLOSE_IN_BFLOAT16) == ("close", 2)
