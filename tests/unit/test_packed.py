"""Products with laid-out weights: the same numbers, on the model's own layers, only where they pay and fit."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tunesmith.models import packed
from tunesmith.models.device import cpu_computes_bfloat16
from tunesmith.train.slots.frozen import Frozen
from tunesmith.train.slots.network import Network

CPU = torch.device("cpu")
BFLOAT16 = pytest.param(
    torch.bfloat16, marks=pytest.mark.skipif(not cpu_computes_bfloat16(), reason="the CPU only emulates bfloat16")
)

pytestmark = pytest.mark.skipif(not packed.onednn_packs(), reason="no oneDNN layouts here")


@pytest.fixture
def gains(monkeypatch):
    """A machine where oneDNN is the faster one in both types, for models of any size."""
    monkeypatch.setattr(packed, "LEAST", 0)
    monkeypatch.setattr(packed, "cpu_gains_by_onednn", lambda: True)
    monkeypatch.setattr(packed, "cpu_computes_bfloat16", lambda: True)


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def group(dtype, *, pack):
    """Three layers of one input, one of them without a bias."""
    weights = [normal(size, 64, dtype=dtype, seed=size) for size in (96, 32, 48)]
    biases = [normal(96, dtype=dtype, seed=1), None, normal(48, dtype=dtype, seed=2)]
    return Frozen(weights, biases, pack=pack)


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16])
@pytest.mark.parametrize("rows", [1, 7, 130])
def test_a_group_gives_the_outputs_and_gradients_of_its_layers(dtype, rows):
    x, above = normal(rows, 64, dtype=dtype), normal(rows, 176, dtype=dtype, seed=3)
    plain, laid_out = group(dtype, pack=False), group(dtype, pack=True)
    exact = Frozen(
        [weight.double() for weight in plain.weights], [b if b is None else b.double() for b in plain.biases]
    )
    for found in (plain, laid_out):
        assert found.forward(x).dtype == dtype
        bound = 5e-3 if dtype == torch.bfloat16 else 1e-6  # rounding of the type
        for ours, theirs in (
            (found.forward(x), exact.forward(x.double())),
            (found.backward(above), exact.backward(above.double())),
        ):
            assert (ours - theirs).norm() / theirs.norm() < bound
    if dtype == torch.bfloat16:
        assert torch.equal(laid_out.forward(x), plain.forward(x))


def test_weights_are_laid_out_where_that_pays_and_leaves_the_memory(monkeypatch, gains):
    monkeypatch.setattr(packed, "installed_memory_mb", lambda device: 1000.0)
    assert packed.may_pack(100 * 2**20, CPU, torch.bfloat16)
    assert packed.may_pack(100 * 2**20, CPU, torch.float32)
    assert not packed.may_pack(101 * 2**20, CPU, torch.bfloat16)
    assert not packed.may_pack(1, CPU, torch.float64)
    assert not packed.may_pack(1, torch.device("cuda"), torch.bfloat16)
    monkeypatch.setattr(packed, "cpu_gains_by_onednn", lambda: False)
    assert not packed.may_pack(1, CPU, torch.float32)
    assert packed.may_pack(1, CPU, torch.bfloat16)
    monkeypatch.setattr(packed, "cpu_computes_bfloat16", lambda: False)
    assert not packed.may_pack(1, CPU, torch.bfloat16)
    monkeypatch.setattr(packed, "cpu_computes_bfloat16", lambda: True)
    monkeypatch.setattr(packed, "LEAST", 2)
    assert packed.may_pack(2, CPU, torch.bfloat16)
    assert not packed.may_pack(1, CPU, torch.bfloat16)


def test_whether_onednn_gains_is_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    for speedup in (1.05, 1.5):
        monkeypatch.setattr(packed, "cpu_model", lambda speedup=speedup: f"a CPU {speedup} times as fast")
        for measure in (lambda speedup=speedup: speedup, lambda: 1 / 0):
            monkeypatch.setattr(packed, "onednn_speedup", measure)
            assert packed.cpu_gains_by_onednn() == (speedup > 1.1)


def test_a_model_answers_alike_with_its_weights_laid_out_and_is_itself_again_afterwards(tiny_path, gains):
    model = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32).eval()
    ids = torch.arange(1, 21).view(2, 10)
    with torch.inference_mode():
        before = model(ids).logits
        with packed.prepacked(model, torch.float32):
            assert all("forward" in layer.__dict__ for layer in model.modules() if type(layer) is nn.Linear)
            inside = model(ids).logits
            with packed.prepacked(model, torch.float32):
                assert torch.equal(model(ids).logits, inside)
        after = model(ids).logits
        with packed.prepacked(model, torch.bfloat16):
            assert not any("forward" in layer.__dict__ for layer in model.modules())
    torch.testing.assert_close(inside, before, rtol=1e-4, atol=1e-5)
    assert torch.equal(after, before)
    assert not any("forward" in layer.__dict__ for layer in model.modules())


def test_the_engine_lays_out_all_frozen_weights_or_none(tiny_path, monkeypatch, gains):
    model = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32).eval()
    assert all(group.pack for group in Network(model).frozen)
    monkeypatch.setattr(packed, "installed_memory_mb", lambda device: 1.0)
    assert not any(group.pack for group in Network(model).frozen)
