"""Rows, pairs, plans over both, and a plain training to compare with."""

import dataclasses
from functools import partial

import pytest
import torch
from torch.nn.utils import clip_grad_norm_
from transformers import get_scheduler
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tunesmith.config.experiment import AdapterConfig
from tunesmith.config.method import DpoConfig, SftConfig
from tunesmith.models import packed
from tunesmith.models.loading import attach_fresh, detach
from tunesmith.train.encode import IGNORED, Encoded
from tunesmith.train.loss import collate
from tunesmith.train.order import epoch_order, steps_per_epoch
from tunesmith.train.pairs import Pair
from tunesmith.train.recorder import TrainingData
from tunesmith.train.reference import Reference
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.slot import Plan

PROMPT = list(range(40, 60))


@pytest.fixture(autouse=True)
def weights_of_any_size_are_laid_out(monkeypatch):
    """What the models of users get is tested on the tiny one."""
    monkeypatch.setattr(packed, "LEAST", 0)


def make_row(length, generator, *, prompt=PROMPT):
    body = torch.randint(0, 250, (length,), generator=generator).tolist()
    quiet = len(prompt) + length // 2
    return Encoded(prompt + body, [IGNORED] * quiet + body[length // 2 :], truncated=False)


@pytest.fixture(scope="session")
def rows():
    """Ragged rows with a common prompt; two are equal, one has another prompt, one has two replies."""
    generator = torch.Generator().manual_seed(3)
    rows = [make_row(length, generator) for length in (4, 30, 9, 14, 60, 22, 11, 7, 40)]
    rows += [rows[3], make_row(12, generator, prompt=[1, 2, 3])]
    twice = make_row(20, generator)
    labels = twice.labels[:22] + twice.input_ids[22:25] + [IGNORED] * 5 + twice.input_ids[30:]
    return [*rows, Encoded(twice.input_ids, labels, truncated=False)]


@pytest.fixture(scope="session")
def pairs():
    """Ragged pairs with a common prompt; two have another prompt, of one both replies begin alike."""
    generator = torch.Generator().manual_seed(4)
    lengths = [(4, 9), (14, 6), (7, 7), (3, 20), (11, 2), (5, 16), (18, 12), (6, 10), (1, 3)]
    replies = [[torch.randint(0, 250, (n,), generator=generator).tolist() for n in both] for both in lengths]
    replies[2][1][:4] = replies[2][0][:4]
    prompts = [PROMPT] * 7 + [[1, 2, 3]] * 2
    return [Pair(f"p{n}", prompt, *both) for n, (prompt, both) in enumerate(zip(prompts, replies, strict=True))]


METHODS = [
    {"learning_rate": 5e-3, "batch_size": 2, "epochs": 4, "scheduler": "cosine", "warmup": 0.1},
    {"learning_rate": 1e-3, "batch_size": 5, "epochs": 8, "scheduler": "linear", "weight_decay": 0.1},
    {"learning_rate": 2e-2, "batch_size": 3, "epochs": 5, "scheduler": "constant", "max_grad_norm": 0.05},
    {"learning_rate": 4e-4, "batch_size": 1, "epochs": 2, "warmup": 0.0, "weight_decay": 0.01},
]
PREFERENCES = [
    {"learning_rate": 5e-3, "batch_size": 2, "epochs": 4, "beta": 0.1, "warmup": 0.1, "sft_weight": 0.4},
    {"learning_rate": 1e-3, "batch_size": 4, "epochs": 8, "beta": 0.5, "loss": "ipo", "weight_decay": 0.1},
    {"learning_rate": 1e-2, "batch_size": 3, "epochs": 7, "beta": 0.3, "loss": "apo_zero", "max_grad_norm": 0.05},
]
ADAPTERS = [
    {"rank": 2, "alpha": 8},
    {"rank": 8, "alpha": 8},
    {"rank": 4, "alpha": 3, "rslora": True},
    {"rank": 5, "alpha": 16},
]


@pytest.fixture(scope="session")
def plans(rows):
    """Four plans that differ in everything a sweep may vary."""
    return [
        Plan(rows, AdapterConfig(**adapter), SftConfig(**method), seed=11 + n)
        for n, (adapter, method) in enumerate(zip(ADAPTERS, METHODS, strict=True))
    ]


@pytest.fixture(params=["sft", "dpo"])
def plans_on(request, plans, pairs):
    """Plans of each objective, given the base that they start on."""

    def make(base):
        if request.param == "sft":
            return plans
        return [
            prepared(base, Plan(pairs, AdapterConfig(**adapter), DpoConfig(kind="dpo", **method), seed=11 + n))
            for n, (adapter, method) in enumerate(zip(ADAPTERS, PREFERENCES, strict=False))
        ]

    return make


def prepared(base, plan, *, tune=()):
    """A plan that knows what its reference policy thinks of its rows and of tune rows."""
    plan = dataclasses.replace(plan, reference=Reference())
    data = TrainingData(plan.rows, tune, parent=plan.parent, reference=plan.reference)
    engine = Engine(base)
    plan.objective.prepare(data, partial(engine.ask, plan), dtype=base.dtype)
    return plan


@pytest.fixture(scope="session")
def prepare():
    return prepared


@pytest.fixture
def exact_norms(monkeypatch):
    """Norms of transformers' Llama in the precision of their input; it computes them in float32."""

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


def plain_training(base, plan, steps):
    """Losses and final adapter of a plain PEFT model under torch's AdamW, padded batches, every logit computed."""
    model = attach_fresh(base, plan.adapter, seed=plan.seed, parent=plan.parent).to(base.dtype).train()
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    method, losses, loss_of = plan.method, [], plain_objective(model, plan)
    optimizer = torch.optim.AdamW(weights.values(), lr=method.learning_rate, weight_decay=method.weight_decay)
    name = {"constant": "constant_with_warmup"}.get(method.scheduler, method.scheduler)
    warmup = -(-plan.steps * round(method.warmup * 1000) // 1000)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=plan.steps)
    for step in range(steps):
        loss = loss_of(plan_rows(plan, step))
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(weights.values(), method.max_grad_norm)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    final = {name: weight.detach().clone() for name, weight in weights.items()}
    detach(model)
    return losses, final


def plan_rows(plan, step):
    """The rows of a step, counted from 0."""
    size = plan.method.batch_size
    epoch, batch = divmod(step, steps_per_epoch(len(plan.rows), size))
    lengths = [len(row.input_ids) for row in plan.rows]
    order = epoch_order(lengths, batch_size=size, seed=plan.seed, epoch=epoch)
    return [plan.rows[n] for n in order[batch * size : (batch + 1) * size]]


def plain_loss(model, rows):
    ids, mask, labels = collate(rows, pad=0)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:])


def plain_objective(model, plan):
    """The loss of rows; for pairs, with what the model thinks of their replies now as the reference."""
    if plan.method.kind == "sft":
        return lambda rows: plain_loss(model, rows)
    with torch.no_grad():
        reference = dict(zip([pair.id for pair in plan.rows], plain_logps(model, plan.rows), strict=True))

    def loss_of(pairs):
        policy = plain_logps(model, pairs)
        ratios = policy - torch.stack([reference[pair.id] for pair in pairs])
        own = -policy[:, 0] / torch.tensor([len(pair.chosen) for pair in pairs])
        return (plain_pair_losses(plan.method, pairs, *ratios.T) + plan.method.sft_weight * own).mean()

    return loss_of


def plain_logps(model, pairs):
    """Log-probabilities of each pair's chosen and rejected reply, [pairs, 2]."""
    ids, mask, labels = collate([text for pair in pairs for text in pair.texts], pad=0)
    logs = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].log_softmax(-1)
    wanted = labels[:, 1:]
    found = logs.gather(2, wanted.clamp(min=0)[..., None])[..., 0]
    return (found * (wanted != IGNORED)).sum(1).view(-1, 2)


def plain_pair_losses(method, pairs, chosen, rejected):
    """The papers' formulas, of log π/π_ref [pairs] of both replies."""
    if method.loss == "sigmoid":
        return torch.log(1 + torch.exp(-method.beta * (chosen - rejected)))
    if method.loss == "ipo":
        lengths = torch.tensor([[len(pair.chosen), len(pair.rejected)] for pair in pairs])
        return (chosen / lengths[:, 0] - rejected / lengths[:, 1] - 0.5 / method.beta).square()
    assert method.loss == "apo_zero"
    return 1 / (1 + torch.exp(method.beta * chosen)) + 1 / (1 + torch.exp(-method.beta * rejected))


@pytest.fixture(scope="session")
def train_plainly():
    return plain_training


@pytest.fixture(scope="session")
def logps_plainly():
    return plain_logps


@pytest.fixture(scope="session")
def mean_loss_plainly():
    return plain_loss
