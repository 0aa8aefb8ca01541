"""Checkpoints: whole or absent, checked, the newest sound one used."""

import subprocess
import sys

import pytest
import torch

from tunesmith.errors import DiskError
from tunesmith.train.checkpoint import RANDOM, Checkpoint, newest, save


def make(step):
    return Checkpoint(step, {"weights": torch.full((2000,), float(step)), "odd": torch.zeros(3, 2).T}, {"tokens": 7})


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    assert newest(tmp_path / "none") is None
    torch.manual_seed(4)
    save(tmp_path, make(12))
    found = newest(tmp_path)
    assert (found.step, found.record) == (12, {"tokens": 7})
    assert torch.equal(found.tensors["weights"], make(12).tensors["weights"])
    expected = torch.rand(3)
    torch.set_rng_state(found.tensors[RANDOM])
    assert torch.equal(torch.rand(3), expected)


def test_the_newest_are_kept(tmp_path):
    for step in (8, 9, 10, 11):
        save(tmp_path, make(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000010", "step-000011"]
    assert newest(tmp_path).step == 11


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: cut(folder / "state.safetensors"), "state.safetensors: was changed"),
        (lambda folder: flip(folder / "state.safetensors"), "state.safetensors: was changed"),
        (lambda folder: (folder / "state.json").unlink(), "state.json: is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: missing or broken"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "was not listed"),
    ],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used(tmp_path, damage, named):
    save(tmp_path, make(1))
    damage(save(tmp_path, make(2)))
    with pytest.warns(UserWarning, match=rf"{named}.*set aside as step-000002\.damaged"):
        assert newest(tmp_path).step == 1
    assert (tmp_path / "step-000002.damaged").is_dir()
    save(tmp_path, make(2))
    assert newest(tmp_path).step == 2
    damage(tmp_path / "step-000002")
    with pytest.warns(UserWarning, match=r"set aside as step-000002\.damaged-2"):
        assert newest(tmp_path).step == 1


FULL = """
import pathlib, resource, signal, sys, torch
from tunesmith.errors import DiskError
from tunesmith.train.checkpoint import Checkpoint, newest, save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
big = Checkpoint(5, {"weights": torch.ones(50_000)})
for limit in sys.argv[2:]:
    folder = pathlib.Path(sys.argv[1], limit)
    save(folder, Checkpoint(4, big.tensors))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        save(folder, big, keep=1)
    except DiskError as error:
        print("refused:", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(sorted(path.name for path in folder.iterdir()), newest(folder).step)
    save(folder, big, keep=1)
    print(sorted(path.name for path in folder.iterdir()), newest(folder).step)
"""


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path):
    """Full in mid-file of the tensors, and before any file's end; one process tries both."""
    command = [sys.executable, "-c", FULL, str(tmp_path), "100000", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    for refused, before, after in (lines[:3], lines[3:]):
        assert "step-000005: cannot be written" in refused
        assert before == "['step-000004'] 4"
        assert after == "['step-000005'] 5"


def test_other_errors_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(TypeError):
        save(tmp_path, Checkpoint(1, {}, {"bad": object()}))
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="cannot be written"):
        save(tmp_path / "file", make(1))
