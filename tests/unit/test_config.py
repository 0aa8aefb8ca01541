"""Strict configuration: every mistake is one line with file, line, key and remedy."""

import pathlib

import pytest
from tests.conftest import ROOT

from tunesmith.config import Experiment, Policy, SearchSpace, overrides
from tunesmith.errors import ConfigError

EXPERIMENT = """\
name: demo
data:
  source: rows.jsonl
model: {base: "bundled:tiny-llama"}
method: {learning_rate: 1.0e-3, epochs: 2}
evaluation: {tasks: [intent], primary: tune/intent/exact_match}
"""

SPACE = """\
coarse: {params: {method.learning_rate: [1.0e-3]}}
params:
  method.learning_rate: {kind: float, low: 1.0e-5, high: 1.0e-2, log: true}
  method.epochs: {kind: int, low: 1, high: 3}
"""


@pytest.fixture
def write(tmp_path: pathlib.Path):
    def save(text: str, name: str = "file.yaml") -> pathlib.Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return save


def refusal(load, path: pathlib.Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{path}")


def test_a_whole_experiment_loads_with_defaults(write):
    experiment = Experiment.from_yaml(write(EXPERIMENT))
    assert experiment.method.learning_rate == 1e-3
    assert experiment.adapter.rank == 16
    assert experiment.data.split.shares() == {"train": 0.55, "tune": 0.1, "holdout": 0.25, "bench": 0.1}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 2", "epoch: 2", ":5: method.epoch: unknown key; did you mean epochs?"),
        ("1.0e-3", "1e-3", ":5: method.learning_rate: YAML reads 1e-3 as text; write 0.001"),
        ("1.0e-3", "5e-6", ":5: method.learning_rate: YAML reads 5e-6 as text; write 5.0e-06"),
        ("epochs: 2", "epochs: two", ":5: method.epochs: input should be a valid integer, not 'two'"),
        ("epochs: 2", "epochs: 0", ":5: method.epochs: input should be greater than or equal to 1, not 0"),
        ("name: demo\n", "", ": name: is required"),
        ("tune/intent/", "tune/intnt/", ":6: evaluation: primary must be tune/TASK/METRIC with one of intent"),
        ("  source: rows.jsonl", "  source: [", ":5: not valid YAML: expected ',' or ']', but got '<scalar>'"),
    ],
)
def test_a_wrong_experiment_is_refused(write, old, new, message):
    assert refusal(Experiment.from_yaml, write(EXPERIMENT.replace(old, new))) == message


def test_shares_must_sum_to_one(write):
    text = EXPERIMENT.replace("  source: rows.jsonl", "  source: rows.jsonl\n  split: {train: 0.9}")
    assert "must sum to 1, not 1.35" in refusal(Experiment.from_yaml, write(text))


def test_unknown_keys_come_before_missing_ones(write):
    text = EXPERIMENT.replace("model: {base:", "model: {bas:")
    assert "model.bas: unknown key; did you mean base?" in refusal(Experiment.from_yaml, write(text))


def test_code_in_yaml_is_not_run(write, tmp_path):
    text = EXPERIMENT.replace("name: demo", f"name: !!python/object/apply:os.mkdir ['{tmp_path}/run']")
    assert "not valid YAML" in refusal(Experiment.from_yaml, write(text))
    assert not (tmp_path / "run").exists()


def test_a_space_fits_its_experiment(write):
    SearchSpace.from_yaml(write(SPACE, "space.yaml")).check_against(Experiment.from_yaml(write(EXPERIMENT)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "method.epochs:",
            "method.epoch:",
            ":4: params.method.epoch: no such experiment field; did you mean method.epochs?",
        ),
        (
            "low: 1, high: 3",
            "low: 0, high: 3",
            ":4: params.method.epochs: input should be greater than or equal to 1, not 0",
        ),
        ("low: 1, high: 3", "low: 3, high: 4", ":4: params.method.epochs: the experiment's own value 2 lies outside"),
        (
            "low: 1, high: 3",
            "low: 3, high: 3",
            ":4: params.method.epochs: the range is empty: low 3 is not below high 3",
        ),
        ("low: 1.0e-5", "low: 0.0", ":3: params.method.learning_rate: a logarithmic range needs low above 0, not 0"),
        ("[1.0e-3]", "[1.0]", ":1: coarse.params.method.learning_rate: 1.0 lies outside its range in params"),
        ("kind: int", "kind: whole", ":4: params.method.epochs"),
    ],
)
def test_a_wrong_space_is_refused(write, old, new, message):
    experiment = Experiment.from_yaml(write(EXPERIMENT))

    def load(path):
        SearchSpace.from_yaml(path).check_against(experiment)

    assert refusal(load, write(SPACE.replace(old, new), "space.yaml")).startswith(message)


def test_a_misspelt_gate_is_refused(write):
    text = "model: bot\ngates:\n  - {metric: holdout/x/acc, rule: no_worse_than_base, margn: 0.1}\n"
    assert refusal(Policy.from_yaml, write(text)) == ":3: gates.0.margn: unknown key; did you mean margin?"


def test_overrides_are_checked_like_the_file(write):
    experiment = Experiment.from_yaml(write(EXPERIMENT))
    values = overrides.parse_extra_arguments(["--learning_rate", "3e-4", "--adapter.rank=8"])
    changed = overrides.apply(experiment, values)
    assert (changed.method.learning_rate, changed.adapter.rank) == (3e-4, 8)
    assert experiment.method.learning_rate == 1e-3
    with pytest.raises(ConfigError, match=r"method.learning_rate: input should be greater than 0, not -1.0"):
        overrides.apply(experiment, {"learning_rate": -1.0})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning_rte", "3"], "learning_rte: no such experiment field; did you mean learning_rate?"),
        (["--learning_rate"], "--learning_rate: a value must follow"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_wrong_extra_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError) as caught:
        overrides.parse_extra_arguments(arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("8", 8),
        ("-1.5", -1.5),
        ("null", None),
        ("cosine", "cosine"),
        ("[a, b]", ["a", "b"]),
        ("true", True),
    ],
)
def test_values_on_the_command_line(text, value):
    assert overrides.parse_value(text) == value


def support() -> Experiment:
    return Experiment.from_yaml(ROOT / "experiments/support.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "full", "dora": True}, "kind full trains every weight and has no dora; leave it out"),
        ({"kind": "full", "lora_plus_ratio": 4.0}, "kind full trains every weight and has no lora_plus_ratio"),
        ({"kind": "qlora", "init": "pissa"}, "init pissa needs the base's own weights, which kind qlora quantises"),
        ({"dora": True, "init": "pissa"}, "init pissa with dora cannot be saved as a plain adapter"),
        ({"lora_plus_ratio": 0.5}, "greater than or equal to 1"),
        ({"rank": 0}, "greater than or equal to 1"),
    ],
)
def test_an_adapter_that_makes_no_sense_is_refused_in_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        overrides.apply(support(), {f"adapter.{key}": value for key, value in values.items()})
    assert "\n" not in str(caught.value)


def test_a_space_never_draws_what_makes_no_sense_or_needs_another_base(tmp_path):
    cases = {
        "adapter.dora: {kind: categorical, choices: [false, true]}\n"
        "  adapter.init: {kind: categorical, choices: [default, pissa]}": "init pissa with dora cannot",
        "adapter.kind: {kind: categorical, choices: [lora, qlora]}": "all trials of a sweep share one loaded base",
        "model.max_length: {kind: int, low: 256, high: 1024}": "all trials of a sweep share one loaded base",
    }
    for text, message in cases.items():
        path = tmp_path / "space.yaml"
        path.write_text(f"params:\n  {text}\n")
        with pytest.raises(ConfigError, match=message):
            SearchSpace.from_yaml(path).check_against(support())
    full = overrides.apply(support(), {"adapter.kind": "full"})
    with pytest.raises(ConfigError, match="a sweep registers an adapter and full trains a whole model"):
        SearchSpace.from_yaml(path).check_against(full)
