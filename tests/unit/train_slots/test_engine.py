"""Slots that are saved, resumed, exported, scored; what the engine refuses; other architectures."""

import pytest
import torch
from peft import PeftModel
from tests.unit.train_slots.conftest import PROMPT
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config, Qwen3Config

from tunesmith import manifest
from tunesmith.config import Experiment, overrides
from tunesmith.config.experiment import AdapterConfig
from tunesmith.config.method import SftConfig
from tunesmith.errors import TrainingError
from tunesmith.train import checkpoint
from tunesmith.train.loss import mean_loss
from tunesmith.train.recorder import TrainingData
from tunesmith.train.slots.batch import build
from tunesmith.train.slots.coverage import covers, covers_adapter, covers_model, targeted
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.passes import Limits, plan_passes
from tunesmith.train.slots.schedule import learning_rate
from tunesmith.train.slots.slot import Plan

SMALL = {"vocab_size": 300, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512}


@pytest.fixture
def base(tiny_path):
    return AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.bfloat16).eval()


def steps(engine, count):
    return [{key: result.loss for key, result in engine.step().items()} for _ in range(count)]


def test_a_resumed_slot_continues_bit_for_bit(base, plans_on, tmp_path):
    plans = plans_on(base)
    engine = Engine(base)
    for n in (0, 1):
        engine.join(n, plans[n])
    steps(engine, 8)
    for n in (0, 1):
        engine.save(n, tmp_path / str(n))
    expected = steps(engine, 7)
    torch.manual_seed(99)

    again = Engine(base)
    for n in (0, 1):
        again.join(n, plans[n], checkpoint.newest(tmp_path / str(n)))
    assert again.slots[1].step == 8
    assert steps(again, 7) == expected
    for n in (0, 1):
        assert torch.equal(again.slots[n].weights.data, engine.slots[n].weights.data)
        assert again.slots[n].tokens == engine.slots[n].tokens


def test_a_checkpoint_of_another_training_is_refused_by_name(base, plans, tmp_path):
    engine = Engine(base)
    engine.join("a", plans[0])
    engine.save("a", tmp_path)
    method = plans[0].method.model_copy(update={"learning_rate": 0.5})
    other = Plan(plans[0].rows[1:], plans[0].adapter, method, plans[0].seed)
    with pytest.raises(TrainingError, match=r"another training: method\.learning_rate, rows differ"):
        engine.join("b", other, checkpoint.newest(tmp_path))


def test_an_exported_adapter_loads_in_peft_with_the_engines_own_losses(tiny_path, plans, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32).eval()
    engine = Engine(base)
    for n in (0, 2):
        engine.join(n, plans[n])
    steps(engine, 6)
    rows = plans[0].rows
    losses = {n: values["loss"] for n, values in engine.measure([0, 2], rows).items()}
    ids = torch.tensor([rows[4].input_ids])
    bare = base(ids).logits
    for n in (0, 2):
        engine.export(n, tmp_path / str(n))
        with engine.attached(n) as attached:
            logits = attached(ids).logits
            assert mean_loss(attached.get_base_model(), rows, pad=0, batch_size=4) == pytest.approx(losses[n], rel=1e-6)
        assert torch.equal(base(ids).logits, bare)
        manifest.verify(tmp_path / str(n))
        fresh = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32)
        loaded = PeftModel.from_pretrained(fresh, tmp_path / str(n)).eval()
        assert torch.equal(loaded(ids).logits, logits)
        assert not torch.allclose(logits, bare, atol=1e-4)
    after = steps(engine, 1)
    assert after[0].keys() == {0, 2}


def test_generating_with_a_slots_adapter_between_steps_leaves_its_training_alone(base, plans):
    def run(*, generate):
        engine = Engine(base)
        engine.join(0, plans[0])
        steps(engine, 3)
        if generate:
            with engine.attached(0) as model:
                model.generate(torch.tensor([plans[0].rows[0].input_ids]), max_new_tokens=4, do_sample=False)
        return steps(engine, 3)

    assert run(generate=True) == run(generate=False)


def test_a_step_may_be_of_some_slots_only_and_ends_with_the_plan(base, plans):
    engine = Engine(base)
    for n in (0, 3):
        engine.join(n, plans[n])
    assert engine.step([3]).keys() == {3}
    assert (engine.slots[0].step, engine.slots[3].step) == (0, 1)
    short = Plan(plans[0].rows, plans[0].adapter, SftConfig(batch_size=16), 1)
    assert short.steps == 1
    engine.join("short", short)
    engine.step(["short"])
    assert engine.slots["short"].done
    with pytest.raises(TrainingError, match="all 1 steps"):
        engine.step(["short"])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MistralConfig(**SMALL, **HEADS, sliding_window=None), None),
        (Qwen2Config(**SMALL, **HEADS), None),
        (LlamaConfig(**SMALL, **HEADS, attention_bias=True, mlp_bias=True, head_dim=10), None),
        (
            LlamaConfig(**SMALL, **HEADS, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
            None,
        ),
        (MistralConfig(**SMALL, **HEADS, sliding_window=64), "it attends over a sliding window"),
        (LlamaConfig(**SMALL, **HEADS, hidden_act="gelu"), "its activation is gelu"),
        (LlamaConfig(**SMALL, **HEADS, attention_dropout=0.1), "its attention has a dropout of 0.1"),
        (Qwen3Config(**SMALL, **HEADS), "Qwen3ForCausalLM is not one of"),
    ],
)
def test_architectures_are_run_exactly_or_refused(config, reason, plans):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    if reason:
        with pytest.raises(TrainingError, match=reason):
            Engine(model)
        return
    assert covers_model(model) is None
    engine = Engine(model)
    engine.join(0, plans[2])
    engine.slots[0].weights.data.normal_(std=0.1)
    with engine.attached(0) as attached:
        expected = mean_loss(attached.get_base_model(), plans[2].rows, pad=0, batch_size=4)
    assert engine.measure([0], plans[2].rows)[0]["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, None),
        ({"targets": ["q_proj", "mlp.down_proj"]}, None),
        ({"targets": r".*layers\.1\..*(gate|v)_proj"}, None),
        ({"dropout": 0.1}, "adapter.dropout 0.1"),
        ({"kind": "qlora"}, "adapter.kind qlora"),
        ({"targets": ["q_proj", "embed_tokens"]}, "adapter.targets reach model.embed_tokens"),
        ({"targets": ["query"]}, "adapter.targets reach nothing"),
    ],
)
def test_adapters_are_covered_or_the_reason_says_why_not(base, values, reason):
    found = covers_adapter(base, AdapterConfig(**values))
    assert found is None if reason is None else found.startswith(reason)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "mlp.down_proj"], r".*layers\.1\..*(gate|v)_proj"])
def test_targets_are_those_of_peft_and_train_beside_others(base, plans, targets):
    plan = Plan(plans[0].rows, AdapterConfig(rank=3, targets=targets), plans[0].method, 4)
    engine = Engine(base)
    engine.join("other", plans[1])
    slot = engine.join("a", plan)  # fails unless PEFT adapts exactly these layers
    assert sorted(slot.layout.names) == sorted(targeted(base, targets))
    before = slot.weights.data.clone()
    steps(engine, 2)
    assert not torch.equal(before, slot.weights.data)


def test_passes_hold_every_row_once_within_their_limits(rows):
    wanted = {key: rows[key:] for key in range(5)}
    for limits in (Limits(fuse=1, most=10_000), Limits(fuse=400, most=400), Limits(fuse=200, most=90)):
        passes = plan_passes(wanted, limits)
        seen = {key: [row for part in passes for row in part.get(key, [])] for key in wanted}
        assert seen == wanted
        if limits.fuse == 1:
            assert all(len(part) == 1 for part in passes)
    assert len(plan_passes(wanted, Limits(fuse=10_000, most=10_000))) == 1


def test_rates_follow_the_schedule():
    method = SftConfig(learning_rate=1.0 - 1e-9, scheduler="linear", warmup=0.2)
    assert [round(learning_rate(method, step, 10), 6) for step in (0, 1, 2, 6, 9)] == [0, 0.5, 1, 0.5, 0.125]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_slots_train_on_cuda_as_on_the_cpu(tiny_path, plans):
    losses = {}
    for device in ("cpu", "cuda"):
        model = LlamaForCausalLM.from_pretrained(tiny_path, dtype=torch.float32).to(device).eval()
        engine = Engine(model)
        for n, plan in enumerate(plans):
            engine.join(n, plan)
        losses[device] = steps(engine, 5)
    for ours, theirs in zip(losses["cuda"], losses["cpu"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_slots_learn_on_cuda_in_bfloat16(tiny_path, plans):
    model = LlamaForCausalLM.from_pretrained(tiny_path, dtype=torch.bfloat16).to("cuda").eval()
    engine = Engine(model)
    engine.join(0, plans[0])
    losses = [step[0] for step in steps(engine, 20)]
    assert losses[-1] < losses[0]


def test_an_experiment_is_covered_or_goes_to_trl_with_a_reason(base, root):
    experiment = Experiment.from_yaml(root / "experiments/smoke.yaml")
    assert covers(base, experiment) is None
    assert covers(base, overrides.apply(experiment, {"dropout": 0.05})) == "adapter.dropout 0.05"
    assert Plan.of(experiment, TrainingData([1, 2, 3], [])).seed == experiment.seed


def test_a_batch_holds_no_padding_computes_beginnings_once_and_the_head_where_a_label_is(rows):
    flat, device = rows[:3], torch.device("cpu")
    batch = build([flat, rows[3:5]], device=device)
    bodies = [sum(len(row.input_ids) - len(PROMPT) for row in part) for part in (flat, rows[3:5])]
    assert len(batch.ids) == 2 * len(PROMPT) + sum(bodies)  # a prompt for each slot, whose adapters differ
    assert batch.tokens.counts == (len(PROMPT) + bodies[0], len(batch.ids) - len(PROMPT) - bodies[0])
    assert len(batch.states) == len(batch.labels) == sum(row.supervised for row in rows[:5])
    alone = build([flat], device=device, share=False)
    assert len(alone.ids) == sum(len(row.input_ids) for row in flat)
