"""What the peers of `benchmarks.peers` do for one trial: a training through TRL, by its defaults or tuned.

    python -m benchmarks.peers.trl JOB.json

Trains one trial by TRL's defaults, as a user's script does: load, train, measure, save, print the tune loss.
"""

import contextlib
import json
import math
import pathlib
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig, SFTTrainer

from tunesmith.config.experiment import AdapterConfig
from tunesmith.models.loading import attach_fresh, detach, lora_config, network_of
from tunesmith.train.curves import marks
from tunesmith.train.encode import Encoded
from tunesmith.train.loss import mean_loss

SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
FLAGS: dict[str, dict[str, Any]] = {
    "recipe": {"gradient_checkpointing": False, "bf16": False, "train_sampling_strategy": "group_by_length"},
    "autocast": {"gradient_checkpointing": False, "bf16": True, "train_sampling_strategy": "group_by_length"},
    "two passes": {
        "gradient_checkpointing": False,
        "bf16": False,
        "train_sampling_strategy": "group_by_length",
        "passes": 2,
    },
    "no padding": {
        "gradient_checkpointing": False,
        "bf16": False,
        "train_sampling_strategy": "group_by_length",
        "padding_free": True,
    },
    "any length": {"gradient_checkpointing": False, "bf16": False},
}
"""What may be the fastest way to train with TRL here, the base in bfloat16: without autocast, with it, each batch in
two accumulated passes of rows of like lengths, as one row without padding, and in random order."""


@dataclass(frozen=True)
class Rows:
    """Encoded rows: those trained on, those that tune loss is measured on in a search, and all tune rows."""

    train: list[Encoded]
    tune: list[Encoded]
    every: list[Encoded]
    pad: int

    @classmethod
    def read(cls, path: pathlib.Path) -> "Rows":
        """Rows as `write` left them."""
        values = json.loads(path.read_text(encoding="utf-8"))
        parts = {
            name: [Encoded(ids, labels, truncated=False) for ids, labels in values[name]]
            for name in ("train", "tune", "every")
        }
        return cls(**parts, pad=values["pad"])

    def write(self, path: pathlib.Path) -> None:
        """Keep them as JSON."""
        values: dict[str, Any] = {"pad": self.pad}
        for name in ("train", "tune", "every"):
            values[name] = [(row.input_ids, row.labels) for row in getattr(self, name)]
        path.write_text(json.dumps(values) + "\n", encoding="utf-8")

    def data(self) -> Dataset:
        """The training rows as TRL takes them."""
        columns = {"input_ids": [row.input_ids for row in self.train], "labels": [row.labels for row in self.train]}
        return Dataset.from_dict(columns)


@dataclass(frozen=True)
class Training:
    """One trial: the experiment's `method` with the values that were proposed, and where its adapter goes."""

    method: dict[str, Any]
    adapter: dict[str, Any]
    seed: int
    folder: str
    eval_batch: int

    def lora(self) -> AdapterConfig:
        """The adapter."""
        return AdapterConfig(**self.adapter)

    def measure(self, model: Any, rows: list[Encoded], *, pad: int) -> float:
        """Mean loss per supervised token: the same function for all sides."""
        return mean_loss(network_of(model), rows, pad=pad, batch_size=self.eval_batch)

    def searched(self) -> dict[str, Any]:
        """What a search may vary, in TRL's terms, and what keeps a trainer quiet."""
        method = self.method
        return {
            "output_dir": str(pathlib.Path(self.folder) / "trl"),
            "per_device_train_batch_size": method["batch_size"],
            "learning_rate": method["learning_rate"],
            "num_train_epochs": method["epochs"],
            "weight_decay": method["weight_decay"],
            "lr_scheduler_type": SCHEDULERS[method["scheduler"]],
            "seed": self.seed,
            "use_cpu": not torch.cuda.is_available(),
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
        }

    def save(self, model: Any) -> None:
        """Save the adapter, and nothing of the trainer."""
        model.save_pretrained(pathlib.Path(self.folder) / "adapter", safe_serialization=True)
        shutil.rmtree(pathlib.Path(self.folder) / "trl", ignore_errors=True)


def by_defaults(training: Training, base: str, rows: Rows, *, max_length: int) -> float:
    """Train by TRL's defaults: it loads the base itself, in float32, and trains by autocast with checkpointing."""
    found = lora_config(training.lora())
    trainer = SFTTrainer(
        model=base,
        args=SFTConfig(**training.searched(), max_length=max_length),
        train_dataset=rows.data(),
        peft_config=LoraConfig(
            r=found.r, lora_alpha=found.lora_alpha, target_modules=found.target_modules, task_type="CAUSAL_LM"
        ),
    )
    trainer.train()
    loss = training.measure(trainer.model.eval(), rows.tune, pad=rows.pad)
    training.save(trainer.model)
    return loss


class Reports(TrainerCallback):
    """Measures tune loss at shares of a training, and ends it when the pruner says so."""

    def __init__(self, shares: tuple[float, ...], measure: Callable[[Any], float], prune: Callable[..., bool]) -> None:
        self.shares, self.measure, self.prune = shares, measure, prune
        self.values: dict[float, float] = {}
        self.pruned = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure where a mark stands."""
        share = marks(state.max_steps, self.shares).get(state.global_step)
        if share is None:
            return
        model = kwargs["model"]
        self.values[share] = self.measure(model.eval())
        model.train()
        self.pruned = share < 1 and self.prune(share, self.values[share])
        control.should_training_stop = control.should_training_stop or self.pruned


@dataclass(frozen=True)
class Loaded:
    """A base in memory, its tokenizer and rows; `flags` are a strong peer's."""

    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rows: Rows
    flags: Mapping[str, Any]


def tuned(
    training: Training,
    loaded: Loaded,
    *,
    shares: tuple[float, ...] = (1.0,),
    prune: Callable[[float, float], bool] = lambda share, loss: False,
) -> Reports:
    """Train on the base that stays loaded, save the adapter; what was measured on the way."""
    model = attach_fresh(loaded.base, training.lora(), seed=training.seed)
    reports = Reports(shares, lambda one: training.measure(one, loaded.rows.tune, pad=loaded.rows.pad), prune)
    try:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(**{**training.searched(), **options(training, loaded.flags)}, max_length=None),
            train_dataset=loaded.rows.data(),
            processing_class=loaded.tokenizer,
            callbacks=[reports],
        )
        trainer.train()
        if not reports.pruned:
            training.save(model)
    finally:
        detach(model)
    return reports


def options(training: Training, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags in TRL's terms, with what the experiment fixes; with `passes`, a batch is accumulated from so many."""
    found = {name: value for name, value in flags.items() if name != "passes"}
    found |= {"warmup_steps": training.method["warmup"], "max_grad_norm": training.method["max_grad_norm"]}
    if "passes" in flags:
        found["per_device_train_batch_size"] = training.method["batch_size"] // flags["passes"]
        found["gradient_accumulation_steps"] = flags["passes"]
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence deprecation warnings that transformers and TRL cause each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def finite(loss: float) -> float | None:
    """A loss, or None where a training diverged."""
    return loss if math.isfinite(loss) else None


def main() -> None:
    """Train the trial of a job file; the last line printed is its tune loss as JSON."""
    job = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    rows = Rows.read(pathlib.Path(job["rows"]))
    with quiet():
        loss = by_defaults(Training(**job["training"]), job["base"], rows, max_length=job["max_length"])
    print(json.dumps({"loss": finite(loss)}))


if __name__ == "__main__":
    main()
