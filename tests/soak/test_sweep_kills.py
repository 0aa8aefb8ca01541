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
    unlike = {"worker": {}, "coordinator": {}, "both": {}}
    for victim, found in unlike.items():
        for n in range(KILLS):
            project = copy_project(tmp_path / f"{victim}-{n}", empty_store)
            left = sweeps.killed_and_resumed(project, victim, rng, within=12)
            if left != whole:
                found[project.name] = differences(left, whole)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    result = {
        "date": today,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "kills_each": KILLS,
        "ended_alike": {victim: KILLS - len(found) for victim, found in unlike.items()},
        "unlike": unlike,
    }
    (ROOT / "benchmarks/results" / f"{today}-sweep-kills.json").write_text(json.dumps(result, indent=1) + "\n")
    assert not any(unlike.values()), unlike


def differences(left, whole):
    """What a sweep left, and what it should have left, where the two differ."""
    parts = [(getattr(left, part), getattr(whole, part)) for part in ("params", "adapters")]
    return {
        run: (mine.get(run), other.get(run))
        for mine, other in parts
        for run in sorted({*mine, *other})
        if mine.get(run) != other.get(run)
    }
