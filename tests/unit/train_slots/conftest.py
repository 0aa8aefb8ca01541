"""Rows, plans and a plain training to compare with."""

import pytest
import torch
from torch.nn.utils import clip_grad_norm_
from transformers import get_scheduler
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tunesmith.config.experiment import AdapterConfig
from tunesmith.config.method import SftConfig
from tunesmith.models.loading import attach_fresh, detach
from tunesmith.train.encode import IGNORED, Encoded
from tunesmith.train.loss import collate
from tunesmith.train.order import epoch_order, steps_per_epoch
from tunesmith.train.slots.slot import Plan

PROMPT = list(range(40, 60))


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


METHODS = [
    {"learning_rate": 5e-3, "batch_size": 2, "epochs": 4, "scheduler": "cosine", "warmup": 0.1},
    {"learning_rate": 1e-3, "batch_size": 5, "epochs": 8, "scheduler": "linear", "weight_decay": 0.1},
    {"learning_rate": 2e-2, "batch_size": 3, "epochs": 5, "scheduler": "constant", "max_grad_norm": 0.05},
    {"learning_rate": 4e-4, "batch_size": 1, "epochs": 2, "warmup": 0.0, "weight_decay": 0.01},
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


@pytest.fixture
def exact_norms(monkeypatch):
    """Norms of transformers' Llama in the precision of their input; it computes them in float32."""

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


def plain_training(base, plan, steps):
    """Losses and final adapter of a plain PEFT model under torch's AdamW, padded batches, every logit computed."""
    model = attach_fresh(base, plan.adapter, seed=plan.seed).to(base.dtype).train()
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    method, losses = plan.method, []
    optimizer = torch.optim.AdamW(weights.values(), lr=method.learning_rate, weight_decay=method.weight_decay)
    name = {"constant": "constant_with_warmup"}.get(method.scheduler, method.scheduler)
    warmup = -(-plan.steps * round(method.warmup * 1000) // 1000)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=plan.steps)
    for step in range(steps):
        loss = plain_loss(model, plan_rows(plan, step))
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


@pytest.fixture(scope="session")
def train_plainly():
    return plain_training


@pytest.fixture(scope="session")
def mean_loss_plainly():
    return plain_loss
