"""Bad input at the command line: one line, exit code 2, nothing written."""

import json
import subprocess
import sys

import pytest
from tests.conftest import environment


def refused(done, message, *, code=2):
    """The outcome of a command run in this process or in one of its own."""
    assert (done.exit_code if hasattr(done, "exit_code") else done.returncode) == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert "Traceback" not in done.stderr


def edit(project, name, old, new):
    path = project / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


SWEEP = ("sweep", "experiments/smoke.yaml", "--space", "search_spaces/smoke.yaml", "--policy", "registry/smoke.yaml")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "experiments/smoke.yaml",
            "epochs: 1",
            "epoch: 1",
            "experiments/smoke.yaml:10: method.epoch: unknown key; did you mean epochs?",
        ),
        ("experiments/smoke.yaml", "bundled:tiny-llama", "bundled:tiny", "bundled:tiny: no such model"),
        ("experiments/smoke.yaml", "bundled:tiny-llama", "org/absent-model", "the hub cannot be reached"),
        (
            "experiments/smoke.yaml",
            "max_length: 256",
            "device: cuda",
            "model.device: cuda is asked for but no CUDA device",
        ),
        ("experiments/smoke.yaml", "smoke/conversations", "smoke/absent", "absent.jsonl: cannot be read"),
        (
            "search_spaces/smoke.yaml",
            "method.epochs",
            "method.epoch",
            "search_spaces/smoke.yaml:7: params.method.epoch: no such",
        ),
        (
            "registry/smoke.yaml",
            "value: 0.0}\n  - {metric: holdout/q",
            "valu: 0.0}\n  - {metric: holdout/q",
            "registry/smoke.yaml:4: gates.0.valu",
        ),
        ("experiments/smoke/tasks/quiz.yaml", "multiple_choice", "multiple", "quiz.yaml:2: measure: input should be"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_written(project, invoke, file, old, new, message):
    edit(project, file, old, new)
    before = (project / "mlflow.db").read_bytes()
    refused(invoke(*SWEEP), message)
    assert (project / "mlflow.db").read_bytes() == before
    assert not (project / "optuna.db").exists()
    assert not (project / "mlruns").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken\n", "conversations.jsonl:81: broken JSON at column 2"),
        ("\n", "conversations.jsonl:81: empty line; remove it"),
        ("[]\n", "conversations.jsonl:81: a row must be an object, not list"),
        ('{"id": "x", "group": "x"}\n', "conversations.jsonl:81: messages: a list of at least"),
    ],
)
def test_a_broken_line_of_data_is_named(project, invoke, line, message):
    with (project / "experiments/smoke/conversations.jsonl").open("a") as file:
        file.write(line)
    refused(invoke("audit", "experiments/smoke.yaml"), message)


def test_data_that_fails_its_audit_is_not_trained_on(project, invoke):
    path = project / "experiments/smoke/conversations.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    with path.open("a") as file:
        file.write(json.dumps({**first, "id": "copy"}) + "\n")
    done = invoke("audit", "experiments/smoke.yaml")
    assert done.exit_code == 1
    assert "✗ duplicates: 1, 1.23% of all rows" in done.stdout
    assert "copy" in done.stdout
    refused(invoke(*SWEEP), "the data fails its audit: duplicates: 1", code=1)


def test_a_misspelt_override_is_refused(invoke):
    refused(invoke("plan", "experiments/smoke.yaml", "--learning_rte", "1"), "learning_rte: no such experiment field")
    refused(invoke("plan", "experiments/smoke.yaml", "--set", "epochs=0"), "method.epochs: input should be greater")


def test_an_unreachable_server_is_refused(project):
    """In a process of its own: nothing that is imported on the way says more than the one line."""
    env = environment(MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", *SWEEP], cwd=project, env=env, capture_output=True, text=True, check=False
    )
    refused(done, "MLFLOW_TRACKING_URI http://127.0.0.1:9: no answer")


def test_resuming_nothing_is_refused(invoke):
    refused(invoke(*SWEEP, "--resume"), "--resume: no sweep of smoke is recorded")


def test_promoting_and_rolling_back_nothing_are_refused(invoke):
    refused(invoke("promote", "registry/smoke.yaml"), "smoke-bot: has no candidate; run a sweep first", code=1)
    refused(invoke("rollback", "registry/smoke.yaml"), "smoke-bot", code=1)


def test_json_is_one_line(invoke):
    done = invoke("audit", "experiments/smoke.yaml", "--json")
    assert done.exit_code == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["passed"]
    assert value["audit/rows"] == 80
    assert done.stdout.count("\n") == 1


def test_a_plan_trains_nothing_and_shows_the_mask(project, invoke):
    done = invoke("plan", "experiments/smoke.yaml")
    assert done.exit_code == 0
    assert "Route: opposites<|end|>⟧" in done.stdout
    assert "steps     8 (8 an epoch)" in done.stdout
    assert not (project / "mlruns").exists()
