"""Training together equals training alone."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tunesmith.models.loading import attach_fresh, detach
from tunesmith.train.slots import padded
from tunesmith.train.slots.engine import Engine, peft_weights
from tunesmith.train.slots.passes import Limits

STEPS = 20
FUSED = Limits(fuse=4096, most=4096)


def distance(ours, theirs):
    """Relative L2 distance of two vectors."""
    return (torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs)).item()


def flat(named, layout):
    """PEFT's matrices in the order of the layout's own."""
    plain = {n.removeprefix("base_model.model.").replace(".default.weight", ".weight"): w for n, w in named.items()}
    vector = torch.zeros(layout.size, dtype=next(iter(plain.values())).dtype)
    for name, part in layout.named(vector).items():
        part.copy_(plain.pop(name))
    assert not plain
    return vector


def train(base, plans, *, limits=FUSED, steps=STEPS, order=None):
    engine = Engine(base, limits)
    for n in order or range(len(plans)):
        engine.join(n, plans[n])
    losses = {n: [] for n in engine.slots}
    for _ in range(steps):
        for n, result in engine.step().items():
            losses[n].append(result.loss)
    return engine, losses


@pytest.fixture
def single(tiny_path):
    return AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32).eval()


@pytest.mark.parametrize("limits", [FUSED, Limits(fuse=150, most=90), Limits(fuse=1, most=4096)])
def test_different_slots_train_as_plain_peft_does_alone(tiny_model, plans_on, exact_norms, train_plainly, limits):
    plans = plans_on(tiny_model)
    engine, losses = train(tiny_model, plans, limits=limits)
    for n, plan in enumerate(plans):
        expected, final = train_plainly(tiny_model, plan, STEPS)
        slot = engine.slots[n]
        assert losses[n] == pytest.approx(expected, rel=1e-12)
        assert distance(slot.weights.data, flat(final, slot.layout)) < 1e-12
        assert slot.step == STEPS


def test_gradients_from_identical_weights_agree_in_float32(single, plans, mean_loss_plainly):
    engine = Engine(single, FUSED)
    generator = torch.Generator().manual_seed(5)
    for n, plan in enumerate(plans):
        slot = engine.join(n, plan)
        slot.weights.data.normal_(std=0.05, generator=generator)
        slot.update = lambda *_: None  # leaves the gradient for the test
    rows = {n: slot.next_rows() for n, slot in engine.slots.items()}
    engine.step()
    for n, slot in engine.slots.items():
        with engine.attached(n) as model:
            weights = {name: weight for name, weight in model.named_parameters() if ".lora_" in name}
            gradients = torch.autograd.grad(mean_loss_plainly(model, rows[n]), list(weights.values()))
        theirs = flat(dict(zip(weights, gradients, strict=True)), slot.layout)
        assert distance(slot.gradient, theirs) < 1e-5


def test_the_order_of_slots_does_not_matter(tiny_model, plans):
    engine, losses = train(tiny_model, plans, steps=6)
    other, permuted = train(tiny_model, plans, steps=6, order=[2, 0, 3, 1])
    for n in range(4):
        assert permuted[n] == pytest.approx(losses[n], rel=1e-12)
        assert distance(other.slots[n].weights.data, engine.slots[n].weights.data) < 1e-12


def test_joining_and_leaving_change_nothing_for_those_that_stay(tiny_model, plans):
    alone, losses = train(tiny_model, plans[:1], steps=9)
    engine, seen = Engine(tiny_model, FUSED), []
    engine.join(0, plans[0])
    for step in range(9):
        if step in (2, 4):
            engine.join(step, plans[step // 2])
        if step in (5, 7):
            engine.leave(step - 3)
        seen.append(engine.step()[0].loss)
    assert seen == pytest.approx(losses[0], rel=1e-12)
    assert distance(engine.slots[0].weights.data, alone.slots[0].weights.data) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("limits", [FUSED, Limits(fuse=150, most=90)])
def test_a_broken_neighbour_leaves_the_others_bitwise_untouched(tiny_path, plans_on, dtype, limits):
    """Against a sound neighbour with the same rows: a product's rounding may change with its number of rows."""
    base = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=dtype).eval()
    plans = plans_on(base)
    others = [n for n in range(len(plans)) if n != 1]

    def run(broken):
        engine = Engine(base, limits)
        for n, plan in enumerate(plans):
            engine.join(n, plan)
        results = [engine.step()]
        if broken:
            engine.slots[1].weights.data[::7] = float("nan")
        for _ in range(4):
            results.append(engine.step())
            engine.slots[1].step = 1  # where a broken one stays
        values = [[result[n].values for n in others] for result in results]
        return values, [engine.slots[n].weights.data for n in others], results[-1][1]

    values, weights, sound = run(broken=False)
    again, untouched, stopped = run(broken=True)
    assert values == again
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights, untouched, strict=True))
    assert (sound.nonfinite, stopped.nonfinite) == (False, True)
    assert (sound.step, stopped.step) == (2, 1)


def test_fresh_slots_start_where_peft_does(single, plans):
    engine = Engine(single)
    slot = engine.join("a", plans[3])
    model = attach_fresh(single, plans[3].adapter, seed=plans[3].seed)
    drawn = peft_weights(model)
    for name, own in slot.layout.named(slot.weights.data).items():
        assert torch.equal(own, drawn[name])
    detach(model)


@pytest.mark.parametrize("most", [0, 10**6])
def test_batched_low_rank_products_equal_those_of_each_slot(tiny_model, plans, monkeypatch, most):
    _, expected = train(tiny_model, plans, limits=Limits(fuse=1, most=4096), steps=4)
    monkeypatch.setattr(padded, "MOST_TOKENS", most)
    engine, losses = train(tiny_model, plans, steps=4)
    for n in range(4):
        assert losses[n] == pytest.approx(expected[n], rel=1e-12)
    tuned = engine.measure([0, 1, 2, 3], plans[0].rows)
    monkeypatch.setattr(padded, "MOST_TOKENS", 0)
    again = engine.measure([3, 2, 1, 0], plans[0].rows)
    assert all(tuned[n] == pytest.approx(again[n], rel=1e-12) for n in range(4))
