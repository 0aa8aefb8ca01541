"""`tunesmith study gc`: what finished sweeps left goes, what a sweep may still need stays."""

import json
import subprocess
import sys

import pytest
from tests.conftest import environment
from tests.studies import make

from tunesmith.audit.checks import require_clean
from tunesmith.progress import Progress
from tunesmith.sweep.collection import FINISHED, leftovers
from tunesmith.sweep.coordinator import Coordinator
from tunesmith.sweep.lease import Lease
from tunesmith.sweep.opening import Resume, open_sweep

HOLD = """
import pathlib, sys
from tunesmith.sweep.collection import mark_in_use
lock = mark_in_use(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folders(experiment, space, store):
    """A finished sweep, an interrupted one, a running one, and one that this store does not know."""
    root = store / ".tunesmith/sweeps"
    for name in ("done", "cut", "runs", "elsewhere"):
        (root / name / "trial-000").mkdir(parents=True)
        (root / name / "trial-000/state").write_bytes(bytes(2**20))
        if name != "elsewhere":
            sweep = make(experiment, space, name)
            sweep.study.set_user_attr(FINISHED, name != "cut")
    with Lease(sweep.study):
        yield root


def names(root):
    return sorted(path.name for path in root.iterdir())


def test_gc_shows_what_would_go_and_touches_nothing(folders, invoke):
    lines = invoke("study", "gc", "--dry-run").stdout.splitlines()
    assert lines == [
        f"{folders / 'done'}  1.0 MiB",
        "would free 1.0 MiB",
        "kept, as this store knows no such sweep; add --unknown if no other store does:",
        f"{folders / 'elsewhere'}  1.0 MiB",
    ]
    assert names(folders) == ["cut", "done", "elsewhere", "runs"]


def test_gc_removes_what_finished_sweeps_left(folders, invoke):
    found = json.loads(invoke("study", "gc", "--json").stdout)
    going, kept = ({str(folders / name): 2**20} for name in ("done", "elsewhere"))
    assert found == {"removed": True, "folders": going, "unknown": kept}
    assert names(folders) == ["cut", "elsewhere", "runs"]
    assert "freed 0.0 MiB" in invoke("study", "gc").stdout
    assert "freed 1.0 MiB" in invoke("study", "gc", "--unknown").stdout
    assert names(folders) == ["cut", "runs"]


def test_gc_leaves_a_sweep_alone_that_runs_with_another_store(folders, invoke):
    command = [sys.executable, "-c", HOLD, str(folders / "elsewhere")]
    holder = subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    done = invoke("study", "gc", "--unknown")
    assert "elsewhere" not in done.stdout
    assert names(folders) == ["cut", "elsewhere", "runs"]
    holder.kill()
    holder.communicate()
    assert "elsewhere" in invoke("study", "gc", "--unknown").stdout
    assert names(folders) == ["cut", "runs"]


def test_a_sweep_holds_its_folder_as_long_as_it_runs(experiment, space, store, tmp_path, monkeypatch):
    parent, study = open_sweep(experiment, space, require_clean(experiment), resume=Resume.NO)
    monkeypatch.setenv("TUNESMITH_STUDY_STORAGE", f"sqlite:///{tmp_path / 'another.db'}")
    with Progress() as progress, Coordinator(experiment, space, study, parent, progress) as coordinator:
        assert leftovers() == []
    assert [leftover.path for leftover in leftovers()] == [coordinator.folder]


def test_gc_without_a_store_keeps_everything(folders, invoke, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_STUDY_STORAGE", f"sqlite:///{tmp_path / 'another.db'}")
    assert "freed 0.0 MiB" in invoke("study", "gc").stdout
    assert names(folders) == ["cut", "done", "elsewhere", "runs"]
