"""Every kind of adapter: it learns, stops and goes on, leaves its base as it was, is packaged, served and merged."""

import contextlib
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tests import tampering
from tests.conftest import ROOT
from tests.integration.test_training import Listener

from tunesmith.config import Experiment, overrides
from tunesmith.data.dataset import load_dataset
from tunesmith.errors import ModelError, RegistryError
from tunesmith.models import nf4
from tunesmith.models.device import place
from tunesmith.models.loading import attach_saved, load_base, load_tokenizer, network_of, release
from tunesmith.models.references import resolve
from tunesmith.registry import against_base, merged
from tunesmith.registry.package import Contents, build_package
from tunesmith.registry.verify import verify_package
from tunesmith.train.encode import encode_rows
from tunesmith.train.loss import mean_loss
from tunesmith.train.recorder import Recorder, TrainingData
from tunesmith.train.run import save_adapter
from tunesmith.train.slots.coverage import covers
from tunesmith.train.trl import TrlTraining

KINDS = {
    "dora": {"adapter.dora": True},
    "rslora": {"adapter.rslora": True},
    "pissa": {"adapter.init": "pissa"},
    "pissa and rslora": {"adapter.init": "pissa", "adapter.rslora": True},
    "lora+": {"adapter.lora_plus_ratio": 8.0},
    "qlora": {"adapter.kind": "qlora"},
    "full": {"adapter.kind": "full"},
}


@pytest.fixture(scope="module")
def smoke():
    return overrides.apply(Experiment.from_yaml(ROOT / "experiments/smoke.yaml"), {"learning_rate": 5e-3})


@pytest.fixture(scope="module")
def model():
    return resolve("bundled:tiny-llama")


@pytest.fixture(scope="module")
def data(smoke, model):
    rows, tokenizer = load_dataset(smoke), load_tokenizer(model)
    splits = (rows.train.rows[:24], rows.tune.rows[:8])
    return TrainingData(*(encode_rows(part, tokenizer, max_length=256) for part in splits))


@pytest.fixture(scope="module")
def bases(smoke, model):
    return {quantise: load_base(model, place(smoke.model), quantise=quantise) for quantise in (False, True)}


def bits(base) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in base.state_dict().items() if torch.is_tensor(weight)}


def loss_of(tuned, data, tokenizer) -> float:
    return mean_loss(network_of(tuned), data.tune, pad=tokenizer.pad_token_id, batch_size=8)


def run(base, tokenizer, experiment, data, folder, *, until=None):
    """Train to the end, or to step `until`; gives the saved adapter and its loss before it was saved."""
    recorder = Recorder(data, fractions=(1.0,), reporter=Listener())
    training = TrlTraining(base, tokenizer, experiment, recorder, folder)
    with training.run(lambda step: step == until) as tuned:
        if until is not None:
            return None, recorder
        loss = loss_of(tuned, data, tokenizer)
        return save_adapter(tuned, recorder, folder), loss


@contextlib.contextmanager
def attach(base, folder):
    tuned = attach_saved(base, folder)
    yield tuned
    release(tuned)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_adapter_from_its_training_to_its_package(kind, smoke, model, data, bases, tmp_path):
    experiment = overrides.apply(smoke, KINDS[kind])
    base, tokenizer = bases[experiment.adapter.kind == "qlora"], load_tokenizer(model)
    before = bits(base)
    whole, loss = run(base, tokenizer, experiment, data, tmp_path / "whole")
    losses = [value for _, value in whole.curves["train/loss"]]
    assert losses[-1] < losses[0] - 0.02

    run(base, tokenizer, experiment, data, tmp_path / "parts", until=3)
    parts, _ = run(base, tokenizer, experiment, data, tmp_path / "parts")
    assert parts.adapter_sha256 == whole.adapter_sha256
    after = bits(base)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)

    with attach(base, tmp_path / "whole" / "adapter") as saved:
        assert loss_of(saved, data, tokenizer) == loss
    contents = Contents(model, experiment.tree(), {"source_sha256": "0" * 64}, max_new_tokens=8)
    build = (tmp_path / "package", tmp_path / "whole" / "adapter", contents)
    if kind == "full":
        with pytest.raises(RegistryError, match=r"adapter\.kind: full fine-tuning saves a whole model"):
            build_package(*build)
        return
    if kind == "lora+":
        return  # what is saved is a plain adapter
    package = build_package(*build, finish=merged.add)
    assert against_base.load(package).effect > 0
    assert ("bitsandbytes" in (package / "requirements.txt").read_text()) == (experiment.adapter.kind == "qlora")
    assert "quantization_config" not in json.loads((package / "merged" / "config.json").read_text())


def test_a_damaged_dora_package_is_refused(smoke, model, data, bases, tmp_path):
    experiment = overrides.apply(smoke, KINDS["dora"])
    run(bases[False], load_tokenizer(model), experiment, data, tmp_path / "run")
    contents = Contents(model, experiment.tree(), {"source_sha256": "0" * 64}, max_new_tokens=8)
    package = build_package(tmp_path / "package", tmp_path / "run" / "adapter", contents)
    length = f"{tampering.FIRST}.lora_magnitude_vector"
    for damage, message in (
        (tampering.drop("lora_magnitude_vector"), "its magnitude vectors are not those that adapter_config.json asks"),
        (tampering.drop(length), "its magnitude vectors are not those"),
        (tampering.document(tampering.CONFIG, lambda t: t.update(use_dora=False)), "its magnitude vectors are not"),
        (tampering.fill(np.nan, length), "lora_magnitude_vector has values that are not finite"),
        (tampering.tensors(lambda t: t.update({length: t[length][:5]})), r"has the shape \(5,\)"),
        (tampering.document(tampering.CONFIG, lambda t: t.update(init_lora_weights="pissa")), "init_lora_weights must"),
    ):
        other = shutil.copytree(package, tmp_path / "damaged", dirs_exist_ok=True)
        damage(other)
        with pytest.raises(RegistryError, match=message):  # noqa: PT012 - both are one check, the second needs the base
            verify_package(other)
            against_base.check_shapes(other, model)


def test_what_the_slots_engine_leaves_to_trl_is_named(smoke, bases):
    named = {"dora": "adapter.dora", "pissa": "adapter.init pissa", "lora+": "adapter.lora_plus_ratio"}
    named |= {"qlora": "adapter.kind qlora", "full": "adapter.kind full", "rslora": None}
    for kind, reason in named.items():
        assert covers(bases[False], overrides.apply(smoke, KINDS[kind])) == reason
    assert covers(bases[True], overrides.apply(smoke, KINDS["qlora"])) == "the base is quantised"


def test_the_b_matrices_learn_faster_with_lora_plus(smoke, model, data, bases, tmp_path):
    one_step = TrainingData(data.train[:4], data.tune)
    reached = {}
    for ratio in (1.0, 8.0):
        experiment = overrides.apply(smoke, {"lora_plus_ratio": ratio, "warmup": 0.0})
        trained, _ = run(bases[False], load_tokenizer(model), experiment, one_step, tmp_path / str(ratio))
        weights = load_file(pathlib.Path(trained.adapter) / "adapter_model.safetensors")
        reached[ratio] = {side: {n: w for n, w in weights.items() if f"lora_{side}" in n} for side in "AB"}
    for side, times in (("A", 1.0), ("B", 8.0)):  # B begins at zero, so that it grows with its rate
        for name, weight in reached[1.0][side].items():
            np.testing.assert_allclose(reached[8.0][side][name], times * weight, rtol=1e-3, atol=1e-6)


def test_qlora_without_bitsandbytes_or_its_kernels_is_refused_in_one_line(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "bitsandbytes.functional", None)
        with pytest.raises(
            ModelError, match=r"^adapter.kind: qlora needs bitsandbytes; run: pip install bitsandbytes$"
        ):
            nf4.require_kernels("cpu")
    nf4.require_kernels("cpu")  # bitsandbytes keeps its tables as first made, which must not be on "meta"
    with pytest.raises(ModelError, match=r"^adapter.kind: bitsandbytes cannot quantise to NF4 on .*; use kind lora$"):
        nf4.require_kernels("meta")
