"""Preference pairs in the slots engine: what they are judged by, and the adapter that a training goes on with."""

import dataclasses
import math

import pytest
import torch
from tests.methods import experiment
from transformers import AutoModelForCausalLM

from tunesmith.config.experiment import AdapterConfig
from tunesmith.config.method import DpoConfig
from tunesmith.errors import ModelError
from tunesmith.models.loading import attach_fresh, detach
from tunesmith.train import dpo
from tunesmith.train.preference import both
from tunesmith.train.recorder import TrainingData
from tunesmith.train.reference import Reference
from tunesmith.train.slots.batch import build, count_nodes
from tunesmith.train.slots.coverage import covers
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.passes import Limits, plan_passes
from tunesmith.train.slots.slot import Plan

ADAPTER = AdapterConfig(rank=4, alpha=8)


@pytest.fixture
def base(tiny_path):
    return AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32).eval()


def test_a_pair_is_one_row_whose_prompt_is_computed_once(pairs):
    alone = pairs[0]
    assert count_nodes([alone]) == len(alone.prompt) + len(alone.chosen) + len(alone.rejected)
    assert count_nodes(pairs[:2]) == count_nodes([alone]) + len(pairs[1].chosen) + len(pairs[1].rejected)
    batch = build([pairs], device=torch.device("cpu"))
    assert batch.labels.tolist() == [token for pair in pairs for token in (*pair.chosen, *pair.rejected)]
    passes = plan_passes({"a": pairs, "b": pairs[3:]}, Limits(fuse=60, most=60))
    assert [pair for part in passes for pair in part.get("a", [])] == pairs
    assert len(passes) > 3


def test_figures_of_tune_rows_are_those_that_the_method_measures(base, pairs, prepare, tmp_path):
    made = experiment(tmp_path, "dpo", method={"beta": 0.2, "loss": "robust", "label_smoothing": 0.1})
    assert covers(base, made) is None
    data = TrainingData(pairs[2:], pairs[:5])
    engine = Engine(base)
    plan = prepare(base, Plan.of(made, data), tune=data.tune)
    engine.join("a", plan).weights.data.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    found = engine.measure(["a"], data.tune)["a"]
    with engine.attached("a") as model:
        known = TrainingData(data.train, data.tune, reference=plan.reference)
        expected = dpo.measure(model, data.tune, experiment=made, data=known)
    assert {f"tune/{name}": value for name, value in found.items()} == pytest.approx(expected, rel=1e-4)
    assert found["loss"] != pytest.approx(math.log(2), abs=0.01)


def test_through_trl_too_the_chosen_replys_own_loss_is_a_mean_over_pairs(
    base, tokenizer, pairs, logps_plainly, tmp_path
):
    """TRL's own one is a mean over the tokens of what is run at once."""
    losses = {}
    for weight in (0.0, 0.7):
        made = experiment(tmp_path, "dpo", method={"sft_weight": weight})
        model = attach_fresh(base, made.adapter, seed=1)
        data = TrainingData(pairs, pairs[:1])
        trainer = dpo.build_trainer(made, model, tokenizer, data, folder=tmp_path / "trl", callbacks=[])
        batch = trainer.data_collator([trainer.train_dataset[n] for n in range(len(pairs))])
        losses[weight] = trainer._compute_loss(model, batch, False).item()
        detach(model)
    own, tokens = -logps_plainly(base, pairs)[:, 0], torch.tensor([len(pair.chosen) for pair in pairs])
    assert losses[0.0] == pytest.approx(math.log(2), rel=1e-4)
    assert losses[0.7] - losses[0.0] == pytest.approx(0.7 * (own / tokens).mean().item(), rel=1e-4)
    assert (own / tokens).mean().item() != pytest.approx((own.sum() / tokens.sum()).item(), rel=1e-3)


def test_before_the_first_step_policy_and_reference_agree_in_bfloat16(tiny_path, pairs, prepare):
    """Computed by transformers instead, they would differ by rounding alone."""
    base = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.bfloat16).eval()
    engine = Engine(base)
    plan = Plan(pairs, ADAPTER, DpoConfig(kind="dpo", beta=1.0), seed=2)
    engine.join("ours", prepare(base, plan))
    by_transformers = Reference()
    by_transformers.learn(base, both(pairs), batch_size=4)
    engine.join("theirs", dataclasses.replace(plan, reference=by_transformers))
    margins = {key: [abs(engine.measure([key], [p])[key]["reward_margin"]) for p in pairs] for key in engine.slots}
    assert sum(margins["ours"]) < 0.2 * sum(margins["theirs"])


def test_an_adapter_that_is_gone_on_with_is_the_reference(base, pairs, plans, prepare, train_plainly, tmp_path):
    engine = Engine(base)
    engine.join("sft", Plan(plans[0].rows, ADAPTER, plans[0].method, seed=1))
    for _ in range(5):
        engine.step()
    engine.export("sft", tmp_path)
    method = DpoConfig(kind="dpo", learning_rate=1e-3, batch_size=3, warmup=0.0, epochs=3, beta=2.0)
    bare, plan = (prepare(base, Plan(pairs, ADAPTER, method, seed=2, parent=parent)) for parent in (None, tmp_path))
    slot = engine.join("dpo", plan)
    assert torch.equal(slot.weights.data, engine.slots["sft"].weights.data)
    losses = [engine.step(["dpo"])["dpo"].loss for _ in range(6)]
    expected, _ = train_plainly(base, plan, 6)
    assert losses[0] == pytest.approx(math.log(2), rel=1e-4)
    assert losses == pytest.approx(expected, rel=1e-4)
    away = engine.join("bare reference", Plan(pairs, ADAPTER, method, 2, bare.reference, tmp_path))
    assert engine.step(["bare reference"])["bare reference"].loss != pytest.approx(losses[0], rel=1e-2)
    assert away.step == 1
    with pytest.raises(ModelError, match=r"adapter\.rank: is not the parent's; set it to 4"):
        engine.join("other", Plan(pairs, AdapterConfig(rank=8, alpha=8), method, 2, plan.reference, tmp_path))
