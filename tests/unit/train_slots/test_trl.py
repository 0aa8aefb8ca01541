"""The slots engine against TRL's own trainer."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from tunesmith.config.experiment import AdapterConfig
from tunesmith.config.method import SftConfig
from tunesmith.models.loading import attach_fresh, detach
from tunesmith.train.arguments import SCHEDULERS
from tunesmith.train.order import EpochOrder
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.slot import Plan


class InOurOrder(SFTTrainer):
    """TRL's trainer with nothing changed but the order of rows."""

    def _get_train_sampler(self, train_dataset=None):
        lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return EpochOrder(lengths, batch_size=size, seed=self.args.data_seed)


def train_through_trl(base, plan, tokenizer, folder, *, micro_batch):
    method = plan.method
    args = SFTConfig(
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
        data_seed=plan.seed,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    model = attach_fresh(base, plan.adapter, seed=plan.seed)
    data = Dataset.from_dict({"input_ids": [r.input_ids for r in plan.rows], "labels": [r.labels for r in plan.rows]})
    trainer = InOurOrder(model=model, args=args, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    detach(model)
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {key: [entry[key] for entry in logs] for key in ("loss", "learning_rate", "grad_norm")}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("method", "micro_batch"),
    [
        ({"learning_rate": 2e-2, "batch_size": 4, "epochs": 10, "scheduler": "cosine", "weight_decay": 0.01}, 2),
        ({"learning_rate": 1e-2, "batch_size": 3, "epochs": 8, "scheduler": "linear", "warmup": 0.2}, 3),
    ],
)
def test_thirty_steps_follow_trls_curves(tiny_path, tokenizer, rows, tmp_path, method, micro_batch):
    base = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32).eval()
    plan = Plan(rows, AdapterConfig(rank=4, alpha=8), SftConfig(**method), seed=23)
    theirs = train_through_trl(base, plan, tokenizer, tmp_path, micro_batch=micro_batch)
    engine = Engine(base)
    engine.join("ours", plan)
    results = [engine.step()["ours"] for _ in range(plan.steps)]
    assert len(results) == len(theirs["loss"]) >= 30
    assert [result.loss for result in results] == pytest.approx(theirs["loss"], rel=1e-3)
    assert [result.learning_rate for result in results] == pytest.approx(theirs["learning_rate"], rel=1e-6)
    assert [result.grad_norm for result in results] == pytest.approx(theirs["grad_norm"], rel=1e-2)
    assert results[-1].loss < results[0].loss - 0.5
