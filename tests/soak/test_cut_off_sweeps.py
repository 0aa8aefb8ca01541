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
    whole = what_is_left(project)
    places = list(dict.fromkeys((project / "commits.log").read_text().splitlines()))
    not_begun, not_reached, failed, unlike = [], [], [], {}
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
        found = what_is_left(project)
        if found != whole:
            unlike[place] = differences(found, whole)
    keep(places, not_begun=not_begun, not_reached=not_reached, failed=failed, unlike=unlike)
    assert not failed
    assert not unlike
    assert len(not_begun) < len(places) / 5


def start(project, place):
    """A sweep that dies at this place."""
    command = [sys.executable, "-m", "tests.dying", str(project / "commits.log"), place]
    sweep = ["sweep", *sweeps.SMOKE, "--trials", "4"]
    return sweeps.begin(project, [*command, *sweep], PYTHONPATH=f"{ROOT / 'src'}:{ROOT}")


def what_is_left(project: pathlib.Path):
    """What runs say, digests of adapters, registered versions with their aliases, and what is open or doubled."""
    found = MlflowClient(f"sqlite:///{project / 'mlflow.db'}").search_model_versions("name = 'smoke-bot'")
    versions = {f"version {version.version}": str(version.aliases) for version in found}
    for version in found:
        command = [sys.executable, "-c", VERIFY, str(version.version)]
        subprocess.run(command, cwd=project, env=environment(PYTHONPATH=str(ROOT / "src")), check=True)
    try:
        runs = {f"{kind} {name}": said for (kind, name), said in sweeps.recorded(project).items()}
        return {**runs, **sweeps.left(project).adapters, **versions}
    except (AssertionError, KeyError) as error:
        return {"open or doubled": str(error).splitlines()[0] if str(error) else "a run"}


def differences(found, whole):
    keys = [key for key in {*found, *whole} if found.get(key) != whole.get(key)]
    return {key: (str(found.get(key)), str(whole.get(key))) for key in sorted(keys)}


def keep(places, **seen):
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    result = {
        "date": today,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "places": len(places),
        "resumed_alike": len(places) - sum(len(found) for found in seen.values()),
        **seen,
    }
    path = ROOT / "benchmarks/results" / f"{today}-sweep-cut-offs.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
