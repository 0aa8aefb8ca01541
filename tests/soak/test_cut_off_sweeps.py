"""A whole sweep, killed once before the first commit at each place that writes to study, run tree or registry."""

import datetime
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys

import pytest
from mlflow import MlflowClient
from tests import sweeps
from tests.conftest import ROOT, copy_project, environment

VERIFY = """
import sys
from tunesmith.registry import evidence, versions
version = versions.get("smoke-bot", sys.argv[1])
evidence.require_fresh(evidence.load(version.run_id), versions.verify(version))
"""
NOTHING_TO_RESUME = "no sweep of smoke is recorded"


@pytest.mark.soak
def test_no_place_to_die_at_changes_what_a_sweep_leaves(tmp_path, empty_store):
    project = copy_project(tmp_path / "whole", empty_store)
    sweeps.finish(project, start(project, ""))
    whole, logged = what_is_left(project)
    places = list(dict.fromkeys((project / "commits.log").read_text().splitlines()))
    not_begun, not_reached, failed, unlike, unwritten = [], [], [], {}, {}
    for n, place in enumerate(places):
        project = copy_project(tmp_path / str(n), empty_store)
        code = start(project, place).wait(timeout=240)
        if code == 0:  # a beat of a thread, which need not come
            not_reached.append(place)
            continue
        assert code == -signal.SIGKILL, sweeps.log_of(project)
        if sweeps.start(project, "--resume").wait(timeout=240) != 0:
            nothing = NOTHING_TO_RESUME in sweeps.log_of(project)
            (not_begun if nothing else failed).append(place)
            continue
        found, metrics = what_is_left(project)
        if found != whole:
            unlike[place] = differences(found, whole)
        lacking = {run: sorted(names - metrics.get(run, set())) for run, names in logged.items()}
        if any(lacking.values()):  # what is written behind, of the last two seconds
            unwritten[place] = {run: names for run, names in lacking.items() if names}
    alike = len(places) - sum(map(len, (not_begun, not_reached, failed, unlike)))
    seen = {"resumed_alike": alike, "not_begun": not_begun, "not_reached": not_reached, "failed": failed}
    keep({"places": len(places), **seen, "unlike": unlike, "metrics_not_written": unwritten})
    assert not failed
    assert not unlike
    assert len(not_begun) < len(places) / 5


def start(project, place):
    """A sweep that dies at this place."""
    command = [sys.executable, "-m", "tests.dying", str(project / "commits.log"), place]
    sweep = ["sweep", *sweeps.SMOKE, "--trials", "4"]
    return sweeps.begin(project, [*command, *sweep], PYTHONPATH=f"{ROOT / 'src'}:{ROOT}")


def what_is_left(project: pathlib.Path):
    """What runs say, adapters' digests, versions with their aliases; and the metrics of each run.

    Raises where something is open, doubled or cannot be verified.
    """
    found = MlflowClient(f"sqlite:///{project / 'mlflow.db'}").search_model_versions("name = 'smoke-bot'")
    versions = {f"version {version.version}": str(version.aliases) for version in found}
    for version in found:
        command = [sys.executable, "-c", VERIFY, str(version.version)]
        subprocess.run(command, cwd=project, env=environment(PYTHONPATH=str(ROOT / "src")), check=True)
    said = sweeps.recorded(project)
    adapters = sweeps.left(project).adapters
    runs = {f"{kind} {name}": (*told, files) for (kind, name), (*told, _, files) in said.items()}
    return {**runs, **adapters, **versions}, {f"{kind} {name}": told[-2] for (kind, name), told in said.items()}


def differences(found, whole):
    keys = [key for key in {*found, *whole} if found.get(key) != whole.get(key)]
    return {key: (str(found.get(key)), str(whole.get(key))) for key in sorted(keys)}


def keep(seen):
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    result = {"date": today, "machine": f"{platform.machine()}, {os.cpu_count()} cores", **seen}
    path = ROOT / "benchmarks/results" / f"{today}-sweep-cut-offs.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
