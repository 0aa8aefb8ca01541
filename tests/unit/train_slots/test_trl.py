"""The slots engine against TRL's own trainers."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from tunesmith.config.experiment import AdapterConfig
from tunesmith.config.method import DpoConfig as Dpo
from tunesmith.config.method import SftConfig as Sft
from tunesmith.models.loading import attach_fresh, detach
from tunesmith.train.arguments import SCHEDULERS
from tunesmith.train.order import EpochOrder
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.slot import Plan


def trl_training(plan):
    """TRL's trainer, its arguments and its columns for a plan, with nothing changed but the order of rows."""
    method, rows = plan.method, plan.rows
    if method.kind == "sft":
        trainer, config, own = SFTTrainer, SFTConfig, {}
        columns = {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    else:
        trainer, config = DPOTrainer, DPOConfig
        losses = {method.loss: 1.0, "sft": method.sft_weight} if method.sft_weight else {method.loss: 1.0}
        own = {"beta": method.beta, "label_smoothing": method.label_smoothing}
        own |= {"loss_type": [*losses], "loss_weights": [*losses.values()]}
        columns = {f"{part}_ids": [getattr(row, part) for row in rows] for part in ("prompt", "chosen", "rejected")}

    class InOurOrder(trainer):
        def _prepare_dataset(self, dataset, *args):
            return dataset

        def _get_train_sampler(self, train_dataset=None):
            return EpochOrder([len(row.input_ids) for row in rows], batch_size=method.batch_size, seed=plan.seed)

    return InOurOrder, config, own, Dataset.from_dict(columns)


def train_through_trl(base, plan, tokenizer, folder, *, micro_batch):
    method = plan.method
    trainer_class, config, own, data = trl_training(plan)
    args = config(
        **own,
        output_dir=str(folder),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=method.batch_size // micro_batch,
        learning_rate=method.learning_rate,
        num_train_epochs=method.epochs,
        weight_decay=method.weight_decay,
        lr_scheduler_type=SCHEDULERS[method.scheduler],
        warmup_steps=method.warmup,
        max_grad_norm=method.max_grad_norm,
        gradient_checkpointing=False,
        max_length=None,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    model = attach_fresh(base, plan.adapter, seed=plan.seed)
    trainer = trainer_class(model=model, args=args, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    detach(model)
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def compare(base, plan, tokenizer, folder, *, micro_batch):
    """Hold the engine to TRL's curves; returns its results and what TRL logged."""
    logged = train_through_trl(base, plan, tokenizer, folder, micro_batch=micro_batch)
    engine = Engine(base)
    engine.join("ours", plan)
    results = [engine.step()["ours"] for _ in range(plan.steps)]
    theirs = {key: [entry[key] for entry in logged] for key in ("loss", "learning_rate", "grad_norm")}
    assert [result.loss for result in results] == pytest.approx(theirs["loss"], rel=1e-3)
    assert [result.learning_rate for result in results] == pytest.approx(theirs["learning_rate"], rel=1e-6)
    assert [result.grad_norm for result in results] == pytest.approx(theirs["grad_norm"], rel=1e-2)
    return results, logged


@pytest.fixture
def base(tiny_path):
    return AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32).eval()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("method", "micro_batch"),
    [
        ({"learning_rate": 2e-2, "batch_size": 4, "epochs": 10, "scheduler": "cosine", "weight_decay": 0.01}, 2),
        ({"learning_rate": 1e-2, "batch_size": 3, "epochs": 8, "scheduler": "linear", "warmup": 0.2}, 3),
    ],
)
def test_thirty_steps_follow_trls_curves(base, tokenizer, rows, tmp_path, method, micro_batch):
    plan = Plan(rows, AdapterConfig(rank=4, alpha=8), Sft(**method), seed=23)
    results, _ = compare(base, plan, tokenizer, tmp_path, micro_batch=micro_batch)
    assert len(results) >= 30
    assert results[-1].loss < results[0].loss - 0.5


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("method", "micro_batch"),
    [
        ({"learning_rate": 5e-3, "batch_size": 3, "epochs": 7, "warmup": 0.0, "beta": 0.2}, 1),
        ({"learning_rate": 2e-3, "batch_size": 2, "epochs": 4, "warmup": 0.0, "loss": "sigmoid_norm", "beta": 2.0}, 2),
        ({"learning_rate": 5e-3, "batch_size": 3, "epochs": 7, "warmup": 0.0, "beta": 0.2, "sft_weight": 0.3}, 1),
    ],
)
def test_twenty_steps_on_pairs_follow_trls_curves(base, tokenizer, pairs, prepare, tmp_path, method, micro_batch):
    """TRL asks the reference policy itself, at every step."""
    plan = prepare(base, Plan(pairs, AdapterConfig(rank=4, alpha=8), Dpo(kind="dpo", **method), seed=23))
    results, logged = compare(base, plan, tokenizer, tmp_path, micro_batch=micro_batch)
    assert len(results) >= 20
    assert results[-1].loss < results[0].loss - 0.05
    for ours, theirs in (("reward_margin", "rewards/margins"), ("accuracy", "rewards/accuracies")):
        expected = [entry[theirs] for entry in logged[1:]]  # before the first step no reply is the likelier one
        assert [result.values[ours] for result in results[1:]] == pytest.approx(expected, rel=1e-2, abs=1e-4)
    tokens = [sum(result.tokens for result in results[: n + 1]) for n in range(len(results))]
    assert tokens == [entry["num_tokens"] for entry in logged]
