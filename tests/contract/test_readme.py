"""The README's commands work as they stand there."""

import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from tests.conftest import ROOT

from tunesmith import cli
from tunesmith.config import Experiment, Policy
from tunesmith.config.overrides import field_names

README = (ROOT / "README.md").read_text(encoding="utf-8")
ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
MAKEFILE = (ROOT / "Makefile").read_text()


def commands(beginning: str) -> list[str]:
    """Indented lines of the README that begin so, without their comments."""
    lines = [line.strip() for line in README.splitlines() if line.startswith("    ")]
    return [line.partition(" #")[0].strip() for line in lines if line.startswith(beginning)]


@pytest.mark.parametrize("line", commands("mlflow run"))
def test_an_mlflow_run_names_an_entry_point_and_its_parameters(line):
    words = shlex.split(line)
    point = ENTRY_POINTS[words[words.index("-e") + 1]]
    for name in [words[n + 1].partition("=")[0] for n, word in enumerate(words) if word == "-P"]:
        assert name in point["parameters"] or name in field_names()


@pytest.mark.parametrize("line", commands("tunesmith"))
def test_a_tunesmith_line_names_a_command(line):
    assert shlex.split(line)[1] in cli.main.commands


@pytest.mark.parametrize("line", commands("make"))
def test_a_make_line_names_a_target(line):
    assert re.search(rf"^{line.split()[1]}:", MAKEFILE, re.MULTILINE)


def test_the_command_table_is_complete():
    assert set(re.findall(r"^\| `(\w+)", README, re.MULTILINE)) >= set(cli.main.commands)


def test_the_recipe_for_own_data_works(project, invoke):
    """Every line of it, up to the sweep, on rows that a user might bring."""
    section = README.partition("## Your own data")[2].partition("\n## ")[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    assert len(lines) == 5
    shutil.copy(ROOT / "experiments/support/conversations.jsonl", project / "conversations.jsonl")
    for line in lines[:3]:
        done = subprocess.run(["bash", "-c", line], cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    program, *arguments = shlex.split(lines[3], comments=True)
    assert program == "tunesmith"
    done = invoke(*arguments)
    assert done.exit_code == 0, done.stderr
    experiment = Experiment.from_yaml(project / "experiments/mine.yaml")
    assert experiment.name == Policy.from_yaml(project / "registry/mine.yaml").model == "mine"
    assert experiment.resolve(experiment.data.source) == project / "experiments/mine.jsonl"
