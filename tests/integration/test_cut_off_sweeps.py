"""A sweep that dies between two of its writes ends, once it is resumed, as one that nothing disturbed."""

import itertools
import subprocess
import sys

import pytest
from tests import sweeps
from tests.conftest import ROOT, copy_project, environment

PLACES = [
    ("plain", "search._score_base < crew._lane"),
    ("plain", "trials.remember < study.remember < trial_runs._new < trial_runs.of"),
    ("plain", "runs._write < runs.params < trial_runs._new < trial_runs.of"),
    ("plain", "runs._write < runs.tags < runs.finish < trial_runs.end"),
    ("plain", "runs.finish < trial_runs.end < outcomes._done < outcomes.record"),
    ("plain", "trials.end < study.complete < outcomes._done < outcomes.record"),
    ("plain", "confirmation._run < confirmation.train < confirmation.task < crew.run"),
    ("plain", "runs._write < runs.params < confirmation._run < confirmation.train"),
    ("limited", "trials.remember < study.remember < search._affordable < search._next_segment"),
    ("limited", "trials.remember < study.remember < outcomes.infeasible < search._affordable"),
    ("limited", "trials.end < study.prune < outcomes.infeasible < search._affordable"),
    ("limited", "trials.remember < study.remember < outcomes._paused < outcomes.record"),
    ("limited", "trials.report < study.report < outcomes._paused < outcomes.record"),
    ("limited", "trials.end < study.prune < outcomes.infeasible < outcomes._paused"),
    ("limited", "runs.finish < trial_runs.end < outcomes.infeasible < outcomes._paused"),
]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, empty_store):
    """Projects by the space of their sweep and the place at which it was cut off; of each space one was not."""
    folder = tmp_path_factory.mktemp("cut-off")
    cases = [("plain", ""), ("limited", ""), *PLACES]
    projects = {case: copy_project(folder / str(n), empty_store) for n, case in enumerate(cases)}
    arguments = itertools.chain.from_iterable((str(project), *case) for case, project in projects.items())
    command = [sys.executable, "-m", "tests.cut_off", *arguments]
    variables = environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}")
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return projects


@pytest.mark.parametrize(("space", "place"), PLACES)
def test_a_sweep_cut_off_between_two_writes_ends_as_if_nothing_had_happened(swept, space, place):
    assert states(swept[space, place]) == states(swept[space, ""])
    assert sweeps.recorded(swept[space, place]) == sweeps.recorded(swept[space, ""])


def states(project):
    return [(trial.state, trial.params) for trial in sweeps.newest_study(project).get_trials()]
