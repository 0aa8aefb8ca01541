"""Limits are chosen by measurement, within memory."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tunesmith.train.slots import calibrate as calibration
from tunesmith.train.slots.calibrate import Calibration, calibrate, most_tokens
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.passes import Limits


@pytest.fixture
def engine(tiny_path):
    return Engine(AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32).eval())


def test_calibration_leaves_the_engine_as_it_was(engine, rows):
    usual = engine.limits
    found = calibrate(engine, rows, memory_mb=64)
    assert not engine.slots
    assert engine.limits == usual
    assert 16 in found.ratios
    assert found.limits.most == most_tokens(engine.network, 64)
    assert 1 <= found.limits.fuse <= found.limits.most


@pytest.mark.parametrize(
    ("ratios", "limits"),
    [
        ({16: 0.5, 32: 0.7, 64: 0.9, 128: 0.96}, Limits(fuse=128, most=10_000)),
        ({16: 0.99}, Limits(fuse=1, most=10_000)),
        ({16: 0.5, 32: 0.5, 64: 0.5, 128: 0.5, 256: 0.5, 512: 0.6}, Limits(fuse=1024, most=10_000)),
    ],
)
def test_slots_are_fused_while_a_larger_pass_still_pays(engine, rows, monkeypatch, ratios, limits):
    monkeypatch.setattr(calibration, "_fused_over_solo", lambda engine, rows, size: ratios[size])
    monkeypatch.setattr(calibration, "most_tokens", lambda network, memory: 10_000)
    assert calibrate(engine, rows, memory_mb=1) == Calibration(limits, ratios)


def test_memory_bounds_a_pass(engine, rows):
    small, large = most_tokens(engine.network, 1), most_tokens(engine.network, 2)
    assert 0 < small < large <= 2 * small + 1
    assert calibrate(engine, rows, memory_mb=0.01).limits.fuse == 1


def test_the_bound_covers_what_a_pass_keeps(engine, plans):
    """Storage of all tensors that the tapes of a pass hold, against the estimate."""
    kept = {}
    forward = engine.network._block_forward

    def watch(*arguments):
        x, tape = forward(*arguments)
        parts = [*tape.inputs, *tape.inverses, tape.gate, tape.up]
        parts += [part for saved in tape.kept.values() if saved for part in saved]
        for saved in tape.attended:
            parts += [saved.q, saved.k, saved.v, saved.probabilities, saved.out]
        kept.update({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts})
        watch.tapes.append(tape)
        return x, tape

    watch.tapes = []
    engine.network._block_forward = watch
    engine.join(0, plans[1])
    nodes = sum(len(row.input_ids) for row in engine.slots[0].next_rows())
    engine.step()
    assert sum(kept.values()) / 2**20 < 1.3 * nodes / most_tokens(engine.network, 100) * 100
