"""Ten kills each of worker, coordinator and both, at random instants of a sweep; the result is kept."""

import datetime
import json
import os
import platform
import random

import pytest
from tests import sweeps
from tests.conftest import ROOT, copy_project

KILLS = 10


@pytest.mark.soak
def test_no_kill_changes_what_a_sweep_finds(tmp_path, empty_store):
    project = copy_project(tmp_path / "whole", empty_store)
    sweeps.finish(project, sweeps.start(project))
    whole = sweeps.left(project)
    rng = random.Random(datetime.datetime.now(datetime.UTC).toordinal())
    same = {}
    for victim in ("worker", "coordinator", "both"):
        found = []
        for n in range(KILLS):
            project = copy_project(tmp_path / f"{victim}-{n}", empty_store)
            found.append(sweeps.killed_and_resumed(project, victim, rng, within=12) == whole)
        same[victim] = found
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    result = {
        "date": today,
        "machine": machine,
        "kills_each": KILLS,
        "ended_alike": {k: sum(v) for k, v in same.items()},
    }
    (ROOT / "benchmarks/results" / f"sweep-kills-{today}.json").write_text(json.dumps(result, indent=1) + "\n")
    assert all(all(found) for found in same.values()), same
