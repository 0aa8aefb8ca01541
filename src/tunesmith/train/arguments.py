"""What all TRL trainers are told alike; what differs from TRL's defaults differs knowingly."""

import pathlib
from typing import Any

import torch
from transformers import PreTrainedModel

from tunesmith.config.experiment import Experiment
from tunesmith.train import sharding
from tunesmith.train.team import team

SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def arguments(experiment: Experiment, model: PreTrainedModel, folder: pathlib.Path) -> dict[str, Any]:
    """The experiment's method in the terms of transformers' `TrainingArguments`."""
    method, own = experiment.method, team()
    on_cpu = model.device.type == "cpu"
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": own.rows_at_once(method),
        "gradient_accumulation_steps": own.passes(method),
        "learning_rate": method.learning_rate,
        "num_train_epochs": method.epochs,
        "weight_decay": method.weight_decay,
        "lr_scheduler_type": SCHEDULERS[method.scheduler],
        "warmup_steps": method.warmup,
        "max_grad_norm": method.max_grad_norm,
        "gradient_checkpointing": method.gradient_checkpointing,
        "bf16": model.dtype == torch.bfloat16 and not on_cpu,
        "use_cpu": on_cpu,
        "seed": experiment.seed,
        "data_seed": experiment.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # the filter reports a loss of NaN as 0
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": not on_cpu,
        "ddp_find_unused_parameters": False,  # all that is trained is in every forward pass
        **(sharding.ARGUMENTS if own.parallel == "fsdp" else {}),
    }
