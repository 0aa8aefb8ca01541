"""How rows are grouped for attention: which of their nodes ask, and that no grouping changes what a step gives."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tunesmith.models import packed
from tunesmith.models.device import cpu_computes_bfloat16, cpu_has_amx
from tunesmith.train.slots import attention
from tunesmith.train.slots import rows as slot_rows
from tunesmith.train.slots.batch import build
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.rows import Row, buckets_of

CPU = torch.device("cpu")
BACKEND = torch.backends.mkldnn


def gradient(model, plan):
    """A first step's gradient of an adapter that is not zero."""
    engine = Engine(model)
    slot = engine.join(0, plan)
    slot.weights.data.copy_(torch.linspace(-0.1, 0.1, len(slot.weights)))
    slot.update = lambda *_: None
    engine.step()
    return slot.gradient


@pytest.mark.parametrize(
    "change",
    [
        {"EXPLICIT_UP_TO": 0},  # the fused kernel of long rows
        {"EXPLICIT_UP_TO": 40},  # for some
        {"GROUP_COST": {"cpu": 0}},  # as many groups as save a query
        {"GROUP_COST": {"cpu": 10**9}},  # a single group
    ],
)
def test_no_grouping_of_rows_changes_a_gradient(tiny_model, plans, monkeypatch, change):
    before = gradient(tiny_model, plans[1])
    for name, value in change.items():
        monkeypatch.setattr(slot_rows, name, value)
    torch.testing.assert_close(gradient(tiny_model, plans[1]), before, rtol=1e-10, atol=1e-14)


def test_what_rows_have_in_common_asks_once(rows):
    batch = build([rows], device=CPU)
    asked = [bucket.nodes.gather(1, bucket.asked)[bucket.asked < bucket.lengths] for bucket in batch.buckets]
    assert set(torch.cat(asked).tolist()) == set(range(len(batch.ids)))
    assert sum(len(bucket.nodes) for bucket in batch.buckets) == len(rows) - 1  # of two equal rows one has no own node
    pairs = sum(bucket.nodes.numel() * bucket.queries for bucket in batch.buckets)
    whole = build([rows], device=CPU, share=False)
    assert pairs < 0.7 * sum(bucket.nodes.numel() * bucket.queries for bucket in whole.buckets)


def test_rows_are_parted_where_that_costs_least():
    common = list(range(34))
    rows = [Row([*common, *range(100, 174)], own=108)]
    rows += [Row([*common, *range(1000 * n, 1000 * n + 74)], own=74) for n in range(1, 8)]
    shapes = [(*bucket.nodes.shape, bucket.queries) for bucket in buckets_of(rows, device=CPU)]
    assert shapes == [(1, 108, 108), (7, 108, 74)]  # one row after the other, each would rather join the first
    small = [Row(list(range(n, n + 12)), own=12 - n % 5) for n in range(0, 160, 20)]
    assert len(buckets_of(small, device=CPU)) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("gains", [False, True])
def test_onednn_multiplies_in_attention_where_that_pays_and_rounds_nothing(
    tiny_path, plans_on, monkeypatch, dtype, amx, gains
):
    model = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=dtype).eval()
    before, seen, forward = BACKEND.matmul.fp32_precision, [], attention.forward
    monkeypatch.setattr(attention, "cpu_has_amx", lambda: amx)
    monkeypatch.setattr(packed, "cpu_gains_by_onednn", lambda: gains)
    monkeypatch.setattr(
        attention, "forward", lambda *given: seen.append(BACKEND.matmul.fp32_precision) or forward(*given)
    )
    gradient(model, plans_on(model)[1])
    pays = cpu_computes_bfloat16() if dtype == torch.bfloat16 else gains
    assert set(seen) == {"bf16" if pays and not amx else before}
    assert BACKEND.matmul.fp32_precision == before != "bf16"


@pytest.mark.skipif(cpu_has_amx(), reason="with AMX this setting would round, and is not made")
def test_the_setting_rounds_nothing_here():
    left, right = (torch.randn(3, 90, 64, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    with attention.onednn_products(pays=True):
        found = torch.bmm(left, right.transpose(1, 2))
    expected = torch.bmm(left.double(), right.double().transpose(1, 2))
    assert (found - expected).norm() / expected.norm() < 1e-6  # 2e-3 if factors were rounded
