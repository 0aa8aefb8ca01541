"""Rollouts that share prompts train exactly as TRL's own do, given the same samples."""

import pathlib

import pytest
import torch
from datasets import Dataset
from tests.methods import pairs
from transformers import AutoModelForCausalLM
from trl import RLOOConfig, RLOOTrainer

from tunesmith.config.experiment import AdapterConfig
from tunesmith.models.judge import Judge
from tunesmith.models.loading import attach_fresh
from tunesmith.models.reward import with_head
from tunesmith.train.rollout import EpochRepeatSampler, SharedRLOOTrainer


class PlainTrainer(SharedRLOOTrainer):
    """TRL's own log-probabilities, over samples and rewards as ours."""

    def _get_per_token_logps_and_entropies(self, *args, **more):
        return RLOOTrainer._get_per_token_logps_and_entropies(self, *args, **more)


@pytest.mark.parametrize("micro_batch", [4, 2])
def test_shared_rollouts_train_as_plain_ones_do(tiny_path: pathlib.Path, tokenizer, tmp_path, micro_batch):
    curves, weights = [], []
    for trainer_class in (PlainTrainer, SharedRLOOTrainer):
        head = with_head(AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32), seed=3)
        head.score.weight.data *= 50
        base = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32)
        model = attach_fresh(base, AdapterConfig(rank=4, alpha=8.0), seed=1)
        args = RLOOConfig(
            str(tmp_path),
            per_device_train_batch_size=micro_batch * 4,
            gradient_accumulation_steps=4 // micro_batch,
            num_generations=4,
            max_completion_length=6,
            learning_rate=5e-3,
            max_steps=3,
            logging_steps=1,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = trainer_class(
            model=model,
            judge=Judge(head, tokenizer.eos_token_id, batch_size=8),
            args=args,
            train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in pairs(12)]),
            processing_class=tokenizer,
        )
        assert isinstance(trainer._get_train_sampler(), EpochRepeatSampler)
        trainer.train()
        curves.append(
            [(log["reward"], log["kl"], log["entropy"]) for log in trainer.state.log_history if "reward" in log]
        )
        weights.append([weight.detach() for weight in model.parameters() if weight.requires_grad])
    assert len(curves[0]) == 3
    for plain, shared in zip(*curves, strict=True):
        assert shared == pytest.approx(plain, abs=1e-4)
    for plain, shared in zip(*weights, strict=True):
        torch.testing.assert_close(shared, plain, rtol=1e-3, atol=2e-4)
