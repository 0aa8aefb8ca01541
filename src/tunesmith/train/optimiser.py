"""What the kind of an adapter asks of a trainer: float32 for what is trained, and LoRA+'s two learning rates."""

import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from torch.optim import AdamW, Optimizer
from transformers import Trainer

from tunesmith.config.experiment import Experiment


def prepare(trainer: Trainer, experiment: Experiment) -> None:
    """Train in float32, and let the B matrices learn at their own rate if the adapter asks for that."""
    for weight in trainer.model.parameters():
        if weight.requires_grad:  # TRL rounds the adapter of a quantised base to bfloat16, which loses small updates
            weight.data = weight.data.float()
    if experiment.adapter.lora_plus_ratio is not None:
        trainer.optimizer = optimiser(trainer.model, experiment)


def optimiser(model: PeftModel | torch.nn.Module, experiment: Experiment) -> Optimizer:
    """AdamW over what is trained; with LoRA+ (Hayou et al., 2024), B learns `lora_plus_ratio` times as fast as A."""
    ratio, method = experiment.adapter.lora_plus_ratio, experiment.method
    if ratio is None:
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        return AdamW(trained, lr=method.learning_rate, weight_decay=method.weight_decay)
    return create_loraplus_optimizer(
        model,
        AdamW,
        lr=method.learning_rate,
        loraplus_lr_ratio=ratio,
        loraplus_weight_decay=method.weight_decay,
    )
