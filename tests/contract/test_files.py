"""Files that must agree with each other: every YAML loads, MLproject matches the command line, the layers hold."""

import pathlib
import re
import subprocess
import sys

import click
import pytest
import yaml
from tests.conftest import ROOT, environment

from tunesmith import cli
from tunesmith.config import Experiment, Policy, SearchSpace
from tunesmith.config.judge import JudgeConfig
from tunesmith.config.task import Task
from tunesmith.data.tasks import load_tasks

HEAVY = ("torch", "transformers", "trl", "peft", "mlflow", "optuna", "datasets", "lm_eval", "pandas")
TORCH = ("torch", "transformers", "peft", "trl", "lm_eval")


def files(pattern: str) -> list[pathlib.Path]:
    found = sorted(ROOT.glob(pattern))
    assert found, pattern
    return found


def name(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", files("experiments/**/*.yaml"), ids=name)
def test_every_experiment_and_task_loads(path):
    if path.parent.name == "tasks":
        Task.from_yaml(path)
    elif path.name == "judge.yaml":
        JudgeConfig.from_yaml(path)
    elif path.name == "handbook.yaml":
        assert isinstance(yaml.safe_load(path.read_text()), list)
    else:
        load_tasks(Experiment.from_yaml(path))


@pytest.mark.parametrize("path", files("search_spaces/*.yaml"), ids=name)
def test_every_search_space_fits_an_experiment(path):
    own = ROOT / f"experiments/support-{path.stem}.yaml"
    experiment = "smoke" if path.stem == "smoke" else own.stem if own.is_file() else "support"
    SearchSpace.from_yaml(path).check_against(Experiment.from_yaml(ROOT / f"experiments/{experiment}.yaml"))


@pytest.mark.parametrize("path", files("registry/*.yaml"), ids=name)
def test_every_policy_loads(path):
    Policy.from_yaml(path)


PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())
SCALARS = (click.types.StringParamType, click.types.IntParamType, click.types.IntRange, click.types.Choice)


def scalar_parameters(command: click.Command) -> dict[str, object]:
    """Arguments and scalar options of a command with their defaults; flags and repeats stay on the command line."""
    return {
        parameter.name: parameter.default
        for parameter in command.params
        if not getattr(parameter, "is_flag", False)
        and not getattr(parameter, "multiple", False)
        and parameter.nargs == 1
    }


def test_every_entry_point_is_a_command_and_every_command_an_entry_point():
    plain = {name for name, command in cli.main.commands.items() if not isinstance(command, click.Group)}
    assert set(PROJECT["entry_points"]) == plain


GROUPED = [
    command
    for group in cli.main.commands.values()
    if isinstance(group, click.Group)
    for command in group.commands.values()
]


@pytest.mark.parametrize("command", GROUPED, ids=lambda command: command.name)
def test_a_command_of_a_group_explains_itself_and_speaks_json(command):
    assert command.help
    assert "as_json" in {parameter.name for parameter in command.params}
    assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option))


@pytest.mark.parametrize("entry", PROJECT["entry_points"])
def test_an_entry_point_has_its_commands_parameters_and_defaults(entry):
    point = PROJECT["entry_points"][entry]
    declared = {key: value.get("default") for key, value in point.get("parameters", {}).items()}
    expected = scalar_parameters(cli.main.commands[entry])
    assert declared.keys() == expected.keys()
    for key, default in expected.items():
        assert declared[key] == (None if str(default) == "Sentinel.UNSET" else str(default))
        assert point["parameters"][key]["type"] == "string"


@pytest.mark.parametrize("entry", PROJECT["entry_points"])
def test_an_entry_point_uses_each_parameter_once_and_unquoted(entry):
    point = PROJECT["entry_points"][entry]
    command = point["command"]
    assert sorted(re.findall(r"\{(\w+)\}", command)) == sorted(point.get("parameters", {}))
    assert "'" not in command
    assert '"' not in command
    assert command.startswith(f"PYTHONPATH=src python -m tunesmith {entry}")


@pytest.mark.parametrize(("module", "heavy"), [("tunesmith.cli", HEAVY), ("tunesmith.pipeline", TORCH)])
def test_a_module_starts_without_heavy_packages(module, heavy):
    """The command line without any; a coordinator, whose workers load PyTorch meanwhile, without that."""
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_lock_and_project_pin_the_same_versions():
    import tomllib

    lock = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements-core.lock").read_text(), re.MULTILINE))
    lock = {key.lower().replace("_", "-"): value for key, value in lock.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        package, version = re.fullmatch(r"([\w-]+)(?:\[\w+\])?[>=]=(\S+)", requirement).groups()
        assert package in lock
        if "==" in requirement:
            assert lock[package] == version
    demo = (ROOT / "requirements.lock").read_text()
    assert project["optional-dependencies"]["demo"][0] in demo
    assert lock["torch"] == "2.13.0"


def test_no_entry_of_the_manifest_names_a_python_version():
    """With a `python` key the default environment manager builds that release from source."""
    assert set(yaml.safe_load((ROOT / "python_env.yaml").read_text())) == {"dependencies"}
