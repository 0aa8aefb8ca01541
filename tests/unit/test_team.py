"""How rows and batches are shared out among processes, what is refused, and what is said when one of them fails."""

import json
import os
import pathlib

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from tests.conftest import ROOT
from trl import SFTConfig

from tunesmith.commands.training import see_one_device
from tunesmith.config import Experiment, overrides
from tunesmith.errors import ConfigError, TrainingError
from tunesmith.train import sharding
from tunesmith.train.arguments import arguments
from tunesmith.train.launch import check, explain
from tunesmith.train.order import EpochOrder, epoch_order
from tunesmith.train.team import Team, check_size, inside, left_as_word, team, words

SMOKE = Experiment.from_yaml(ROOT / "experiments/smoke.yaml")
CORES = len(os.sched_getaffinity(0))
ON_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")


@pytest.mark.parametrize(("rows", "size", "batch"), [(24, 2, 4), (30, 2, 4), (31, 3, 6), (7, 4, 8)])
def test_each_pass_of_all_has_the_rows_that_one_process_would_have(rows, size, batch):
    lengths = list(range(10, 10 + rows))
    whole = epoch_order(lengths, batch_size=batch, seed=3, epoch=1)
    shares = []
    for rank in range(size):
        own = EpochOrder(lengths, batch_size=batch, seed=3, team=Team(rank, size))
        own.set_epoch(1)
        shares.append(list(own))
        assert len(own) == len(shares[-1]) == rows // size
    each = batch // size
    for start in range(0, rows // size, each):
        together = {row for share in shares for row in share[start : start + each]}
        assert together == set(
            whole[start * size : start * size + batch][: sum(len(s[start : start + each]) for s in shares)]
        )


def test_a_batch_is_split_over_processes_and_passes():
    method = overrides.apply(SMOKE, {"batch_size": 12}).method
    assert (Team(0, 2).rows_at_once(method), Team(0, 2).passes(method)) == (6, 1)
    in_parts = overrides.apply(SMOKE, {"batch_size": 12, "micro_batch": 2}).method
    assert (Team(0, 2).rows_at_once(in_parts), Team(0, 2).passes(in_parts)) == (2, 3)
    assert (Team().rows_at_once(in_parts), Team().passes(in_parts)) == (2, 6)


@ON_CPU
@pytest.mark.parametrize(
    ("changes", "size", "parallel", "message"),
    [
        ({}, CORES + 1, "ddp", f"--nproc {CORES + 1}: this machine has {CORES} cores; use at most {CORES}"),
        ({"batch_size": 3}, 2, "ddp", "smoke.yaml: method.batch_size: 3 is not a multiple of 2, one pass of 2 proc"),
        ({"batch_size": 6, "micro_batch": 2}, 2, "ddp", "6 is not a multiple of 4, one pass of 2 processes with micro"),
        ({}, 2, "fsdp", "--parallel fsdp: needs CUDA devices, of which there are none here; use ddp"),
        ({}, 1, "fsdp", "--parallel fsdp: one process has nobody to share weights with; add --nproc"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(changes, size, parallel, message):
    if size > CORES + 1:
        pytest.skip("one core")
    with pytest.raises(ConfigError) as caught:
        check(overrides.apply(SMOKE, changes), size, parallel)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def environment(monkeypatch):
    """Make this process one of a team, or one that is not ours, by what torchrun would set."""

    def set_up(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        team.cache_clear()

    yield set_up
    team.cache_clear()


def test_rlhf_and_a_torchrun_that_is_not_ours_are_refused(environment):
    rlhf = Experiment.from_yaml(ROOT / "experiments/support-rlhf.yaml")
    with pytest.raises(ConfigError, match="rlhf samples its replies in one process; leave --nproc out"):
        check(rlhf, 2, "ddp")
    environment(WORLD_SIZE="2")
    with pytest.raises(ConfigError, match="under torchrun, where each process trains alone; use --nproc"):
        team()


@pytest.mark.parametrize(("visible", "seen"), [(None, "0"), ("3,1", "3"), ("", "")])
def test_a_training_of_one_process_sees_one_device(monkeypatch, visible, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    see_one_device()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_fewer_processes_than_were_asked_for_do_not_train():
    check_size(2, 2)
    with pytest.raises(TrainingError, match="2 processes were asked for and 1 train together"):
        check_size(1, 2)


def test_a_computation_runs_as_the_forward_pass_of_what_wraps_a_network():
    network = torch.nn.Linear(2, 2)
    seen = []

    class Wrapper(torch.nn.Module):
        def forward(self, *inputs):
            seen.append("before")
            return network(*inputs)

    assert inside(Wrapper(), network, lambda value: value + 1, 1) == 2
    assert inside(network, network, lambda value: value + 1, 1) == 2
    assert seen == ["before"]
    assert "forward" not in network.__dict__


@pytest.mark.parametrize(
    ("said", "codes", "expected"),
    [
        # a process that dies makes the one that waits for it fail, too
        ({0: ("RuntimeError: connection closed", False)}, {0: 70, 1: -9}, "process 1 of 2 was ended by SIGKILL"),
        ({0: ("RuntimeError: connection closed", False), 1: ("no memory", True)}, {0: 70, 1: 1}, "no memory"),
        ({1: ("ValueError: bad", False)}, {0: -15, 1: 70}, "process 1 of 2 failed: ValueError: bad"),
        ({}, {1: 3}, "process 1 of 2 ended with exit code 3"),
    ],
)
def test_the_first_failure_is_told_and_not_what_follows_from_it(tmp_path, said, codes, expected):
    for rank, (message, known) in said.items():
        word = {"at": float(rank), "known": known, "code": 1 if known else 70, "message": message}
        (tmp_path / f"failure-{rank}").write_text(json.dumps(word))
    assert list(words(tmp_path)) == sorted(said)
    error, _, keep = explain(tmp_path, codes, 2)
    assert (str(error), error.exit_code, keep) == (expected, 1, False)


def test_the_trace_of_a_fault_is_kept_where_the_message_says(tmp_path):
    own = Team(1, 2, folder=tmp_path)
    with pytest.raises(SystemExit), left_as_word(own):
        raise ValueError("bad\nand more")
    error, _, keep = explain(tmp_path, {1: 70}, 2)
    assert keep
    message, _, log = str(error).rpartition("; its last words are in ")
    assert message == "process 1 of 2 failed: ValueError: bad"
    assert "and more" in pathlib.Path(log).read_text()


def test_fsdp_is_configured_as_transformers_and_accelerate_take_it(tiny_model, tmp_path):
    """Shards were never trained here, where there is no CUDA device; their configuration is what can be tested."""
    made = SFTConfig(**arguments(SMOKE, tiny_model, tmp_path), **sharding.ARGUMENTS)
    plugin = FullyShardedDataParallelPlugin(**made.fsdp_plugin_args)
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)
    plugin.set_auto_wrap_policy(tiny_model)
    wraps = plugin.auto_wrap_policy
    blocks = [module for module in tiny_model.modules() if wraps(module, recurse=False, nonwrapped_numel=1)]
    assert blocks == list(tiny_model.model.layers)


def test_a_sharded_run_passes_its_arguments_on(tiny_model, tmp_path, environment):
    environment(WORLD_SIZE="2", RANK="0", TUNESMITH_TEAM=str(tmp_path), TUNESMITH_PARALLEL="fsdp")
    assert team() == Team(0, 2, "fsdp", tmp_path)
    options = arguments(SMOKE, tiny_model, tmp_path)
    assert options["fsdp"] is True
    assert (options["per_device_train_batch_size"], options["gradient_accumulation_steps"]) == (2, 1)
