"""One DPO step with cached reference log-probabilities against TRL's DPOTrainer as it comes.

    python -m benchmarks.dpo_step [--rounds 3] [--steps 2] [--batch 8]

All sides of a round train a fresh adapter (rank 16, all linear layers) on the same demo pairs in the same order:
- TRL default: TRL's defaults: float32 base under bfloat16 autocast, gradient checkpointing, the reference policy (the
  base, its adapter disabled) asked in every step.
- ours through TRL: a single run's way: bfloat16 base, cached reference, a pair's prompt run once.
- slots: a sweep's way: the slots engine with one slot, cached reference.
Timed is what lies between a step's begin and end. What asking the reference once costs is timed apart.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel
from trl import DPOConfig, DPOTrainer

from benchmarks.bench import Bench, interleave, load, machine, ratio, timed, write
from benchmarks.step import LIMITS, QUIET, Clock
from tunesmith.models.loading import attach_fresh, detach, lora_config
from tunesmith.models.references import resolve
from tunesmith.train import dpo
from tunesmith.train.order import EpochOrder
from tunesmith.train.pairs import Pair
from tunesmith.train.preference import both
from tunesmith.train.recorder import TrainingData
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.slot import Plan

TARGET = 0.7


class DefaultTrainer(DPOTrainer):
    """TRL's trainer over rows that are tokens already, in the order of ours."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        size, names = self.args.train_batch_size, ("prompt_ids", "chosen_ids", "rejected_ids")
        lengths = [sum(map(len, parts)) for parts in zip(*(self.train_dataset[name] for name in names), strict=True)]
        return EpochOrder(lengths, batch_size=size, seed=self.args.data_seed)


def default_side(bench: Bench, base: PreTrainedModel, data: TrainingData) -> float:
    """Seconds of the steps of TRL's own trainer."""
    clock, method = Clock(), bench.experiment.method
    columns = {f"{part}_ids": [getattr(row, part) for row in data.train] for part in ("prompt", "chosen", "rejected")}
    with tempfile.TemporaryDirectory() as folder:
        own = {"per_device_train_batch_size": method.batch_size, "data_seed": bench.experiment.seed}
        trainer = DefaultTrainer(
            model=base,
            args=DPOConfig(output_dir=folder, **{**QUIET, **own}),
            train_dataset=Dataset.from_dict(columns),
            processing_class=bench.tokenizer,
            peft_config=lora_config(bench.experiment.adapter),
            callbacks=[clock],
        )
        trainer.train()
    detach(trainer.model)
    return clock.seconds


def single_side(bench: Bench, data: TrainingData) -> float:
    """Seconds of the steps of a single run."""
    model, clock = attach_fresh(bench.base, bench.experiment.adapter, seed=bench.experiment.seed), Clock()
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        trainer = dpo.build_trainer(bench.experiment, model, bench.tokenizer, data, folder=where, callbacks=[clock])
        trainer.train()
    detach(model)
    return clock.seconds


def slots_side(bench: Bench, data: TrainingData) -> float:
    """Seconds of the steps of a slot."""
    engine = Engine(bench.base, LIMITS)
    slot = engine.join(0, Plan.of(bench.experiment, data))
    return sum(timed(engine.step) for _ in range(slot.plan.steps))


def ask(bench: Bench, data: TrainingData) -> float:
    """Seconds that the slots engine takes to ask the reference about all rows; a single run's way is asked too."""
    data.reference.learn(bench.base, both(data.train), batch_size=bench.experiment.evaluation.batch_size)
    engine, plan = Engine(bench.base, LIMITS), Plan.of(bench.experiment, data)
    return timed(lambda: plan.objective.prepare(data, partial(engine.ask, plan), dtype=bench.base.dtype))


def measure(bench: Bench, rounds: Sequence[Sequence[Pair]]) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of each side in each round, other rows in every round; and of asking the reference."""
    path = resolve(bench.experiment.model.base).path
    default = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    seconds: dict[str, list[float]] = {}
    asked: list[float] = []
    for rows in (rounds[-1], *rounds):  # the first is to warm up: what is allocated first is slow
        data = TrainingData(rows, [])
        asked.append(ask(bench, data))
        sides: dict[str, Callable[[], float]] = {
            "TRL default": partial(default_side, bench, default, data),
            "ours through TRL": partial(single_side, bench, data),
            "slots": partial(slots_side, bench, data),
        }
        for name, values in interleave(sides, rounds=1).items():
            seconds.setdefault(name, []).extend(values)
    return {name: values[1:] for name, values in seconds.items()}, asked[1:]


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 3), ("steps", 2), ("batch", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.manual_seed(0)
    bench = load("support-dpo.yaml", changes={"seed": 1, "method.batch_size": options.batch, "method.epochs": 1})
    where, count = machine(), options.batch * options.steps
    rounds = [bench.rows[turn * count : (turn + 1) * count] for turn in range(options.rounds)]
    seconds, asked = measure(bench, rounds)
    per_step = {name: [value / options.steps for value in values] for name, values in seconds.items()}
    shape = f"{options.rounds} rounds of {options.steps} steps of {options.batch} pairs"
    lines = ["# One DPO step against TRL", "", str(where), "", f"{shape}; the same pairs in the same order.", ""]
    lines += ["| side | s/step, median [lowest to highest] | this / TRL default |", "|---|---|---|"]
    for name, values in per_step.items():
        spread = f"{statistics.median(values):.2f} [{min(values):.2f} to {max(values):.2f}]"
        lines.append(f"| {name} | {spread} | {ratio(values, per_step['TRL default'])} |")
    once = statistics.median(asked) / options.steps
    lines += ["", f"Asking the reference, once for all trials: {once:.2f} s for the pairs of a step.", ""]
    lines += [f"Target: with cached reference, at most {TARGET} of TRL's default."]
    result = {"machine": where, "shape": shape, "seconds": per_step, "asking": asked}
    write(f"{where['date'][:10]}-dpo-step", "\n".join(lines) + "\n", result)


if __name__ == "__main__":
    main()
