"""A sweep that dies between two of its writes ends, once it is resumed, as one that nothing disturbed."""

import itertools
import subprocess
import sys

import pytest
from tests import sweeps
from tests.conftest import ROOT, copy_project, environment

PLACES = [
    "search._score_base < crew._lane",
    "trials.remember < study.remember < trial_runs._new < trial_runs.of",
    "runs._write < runs.params < trial_runs._new < trial_runs.of",
    "runs._write < runs.tags < runs.finish < trial_runs.end",
    "runs.finish < trial_runs.end < outcomes._done < outcomes.record",
    "confirmation._run < confirmation.train < confirmation.task < crew.run",
    "runs._write < runs.params < confirmation._run < confirmation.train",
]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, empty_store):
    """Projects by the place at which their sweep was cut off; one was not."""
    folder = tmp_path_factory.mktemp("cut-off")
    projects = {place: copy_project(folder / str(n), empty_store) for n, place in enumerate(["", *PLACES])}
    arguments = itertools.chain.from_iterable((str(project), place) for place, project in projects.items())
    command = [sys.executable, "-m", "tests.cut_off", *arguments]
    variables = environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}")
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return projects


@pytest.mark.parametrize("place", PLACES)
def test_a_sweep_cut_off_between_two_writes_ends_as_if_nothing_had_happened(swept, place):
    assert sweeps.left(swept[place]) == sweeps.left(swept[""])
    assert sweeps.recorded(swept[place]) == sweeps.recorded(swept[""])
