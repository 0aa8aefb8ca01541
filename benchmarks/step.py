"""One LoRA step: the slots engine against TRL, and against the matrix products that it cannot avoid.

    python -m benchmarks.step trl        # against TRL's default, tuned TRL, and TRL with our loss
    python -m benchmarks.step roofline   # against the bare products of its own shapes

All sides of a round train on the same rows in the same order, batch 8, rank 16 on all linear layers:
- default: TRL's defaults: float32 base under bfloat16 autocast, gradient checkpointing.
- tuned: bfloat16 base, no checkpointing, rows of like length together (as in all sides here).
- ours through TRL: tuned, with the output layer at labelled positions only and shared prompts computed once.
- lean: the slots engine with one slot.
Timed is what lies between a step's begin and end: forward, backward, clipping, optimiser; not the
loading of rows.
"""

import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.bench import Bench, interleave, load, machine, ratio, timed, write
from tunesmith.config.experiment import AdapterConfig
from tunesmith.config.method import SftConfig
from tunesmith.models.loading import attach_fresh, detach
from tunesmith.models.references import resolve
from tunesmith.train.encode import Encoded
from tunesmith.train.order import EpochOrder
from tunesmith.train.sft import SupervisedSFTTrainer
from tunesmith.train.slots.batch import build, count_nodes
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.frozen import Frozen
from tunesmith.train.slots.network import Network
from tunesmith.train.slots.passes import Limits
from tunesmith.train.slots.pieces import HEAD_ROWS
from tunesmith.train.slots.slot import Plan

BATCH, STEPS, ROUNDS = 8, 2, 3
QUIET: dict[str, Any] = {
    "per_device_train_batch_size": BATCH,
    "num_train_epochs": 1,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "data_seed": 1,
}
TUNED: dict[str, Any] = {"gradient_checkpointing": False, "bf16": False}
LIMITS = Limits(fuse=1, most=10**6)


class Ordered:
    """Gives a trainer the slots engine's row order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        trainer: Any = self
        lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
        return EpochOrder(lengths, batch_size=BATCH, seed=trainer.args.data_seed)


class OrderedTrainer(Ordered, SFTTrainer):
    """TRL's trainer in that order."""


class OrderedSupervised(Ordered, SupervisedSFTTrainer):
    """Ours in that order."""


class Clock(TrainerCallback):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.began, self.seconds = 0.0, 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start."""
        self.began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop."""
        self.seconds += time.perf_counter() - self.began


def trl_side(bench: Bench, base: PreTrainedModel, trainer_class: type, options: dict[str, Any]) -> Callable[..., float]:
    """A side that trains a fresh adapter through TRL and gives the seconds of a step."""

    def run(rows: Sequence[Encoded]) -> float:
        model, clock = attach_fresh(base, AdapterConfig(), seed=1), Clock()
        data = Dataset.from_dict({"input_ids": [r.input_ids for r in rows], "labels": [r.labels for r in rows]})
        with tempfile.TemporaryDirectory() as folder:
            args = SFTConfig(output_dir=folder, **QUIET, **options)
            trainer = trainer_class(
                model=model, args=args, train_dataset=data, processing_class=bench.tokenizer, callbacks=[clock]
            )
            trainer.train()
        detach(model)
        return clock.seconds / STEPS

    return run


def lean_side(bench: Bench) -> Callable[..., float]:
    """A side that trains a fresh slot of one engine, which a worker keeps like its base."""
    engine = Engine(bench.base, LIMITS)

    def run(rows: Sequence[Encoded]) -> float:
        engine.join(0, Plan(rows, AdapterConfig(), SftConfig(batch_size=BATCH), seed=1))
        seconds = statistics.mean(timed(engine.step) for _ in range(STEPS))
        engine.leave(0)
        return seconds

    return run


def against_trl(bench: Bench) -> None:
    """Measure all sides on the same rows, other rows in every round."""
    path = resolve(bench.experiment.model.base).path
    default = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    sides = {
        "TRL default": trl_side(bench, default, OrderedTrainer, {}),
        "TRL tuned": trl_side(bench, bench.base, OrderedTrainer, TUNED),
        "ours through TRL": trl_side(bench, bench.base, OrderedSupervised, TUNED),
        "lean": lean_side(bench),
    }
    where, count = machine(), BATCH * STEPS
    for name in list(sides)[1:]:
        sides[name](bench.rows[-count:])  # what is allocated first is slow
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(ROUNDS):
        rows = bench.rows[turn * count : (turn + 1) * count]
        found = interleave({name: lambda side=side, rows=rows: side(rows) for name, side in sides.items()}, rounds=1)
        for name, values in found.items():
            seconds[name] += values
    lines = ["# One LoRA step against TRL", "", str(where), ""]
    lines += [f"{ROUNDS} rounds of {STEPS} steps of {BATCH} rows; the same rows in the same order for all sides.", ""]
    lines += ["| side | s/step, median [lowest to highest] | lean / this |", "|---|---|---|"]
    for name, values in seconds.items():
        spread = f"{statistics.median(values):.2f} [{min(values):.2f} to {max(values):.2f}]"
        lines.append(f"| {name} | {spread} | {ratio(seconds['lean'], values)} |")
    lines += ["", "Targets: at most 0.22 of TRL's default, at most 0.30 of tuned TRL."]
    write("step-trl", "\n".join(lines) + "\n", {"machine": where, "seconds": seconds})


def products(network: Network, nodes: int, losses: int, rank: int, *, laid_out: bool) -> Callable[[], None]:
    """The matrix products of a step on the model's own weights: base, low-rank, output layer; not attention.

    Those with frozen weights are PyTorch's own, or with weights that oneDNN has laid out, as the engine multiplies.
    """
    dtype = network.dtype
    work: list[Callable[[], object]] = []
    for block in network.blocks:
        for group in block.groups.values():
            x = torch.randn(nodes, group.inputs, dtype=dtype)
            whole = torch.randn(nodes, sum(group.sizes), dtype=dtype)
            work += with_frozen(group, x, whole, laid_out=laid_out)
            for size in group.sizes:
                y, h = torch.randn(nodes, size, dtype=dtype), torch.randn(nodes, rank, dtype=dtype)
                a, b = torch.randn(rank, group.inputs, dtype=dtype), torch.randn(rank, size, dtype=dtype)
                pairs = ((x, a.T), (h, b), (y, b.T), (h.T, x), (h.T, y), (h, a))
                work += [partial(torch.mm, left, right) for left, right in pairs]
    for start in range(0, losses, HEAD_ROWS):
        hidden = torch.randn(min(HEAD_ROWS, losses - start), network.output.inputs, dtype=dtype)
        above = torch.randn(len(hidden), sum(network.output.sizes), dtype=dtype)
        work += with_frozen(network.output, hidden, above, laid_out=laid_out)

    def run() -> None:
        for product in work:
            product()

    return run


def with_frozen(group: Frozen, x: torch.Tensor, above: torch.Tensor, *, laid_out: bool) -> list[Callable[[], object]]:
    """The products of a group's weights with its input, and with the gradient of its output."""
    if laid_out:
        return [partial(group.forward, x), partial(group.backward, above)]
    pairs = [(y.contiguous(), weight) for y, weight in zip(group.split(above), group.weights, strict=True)]
    both = [pair for y, weight in pairs for pair in ((x, weight.T), (y, weight))]
    return [partial(torch.mm, left, right) for left, right in both]


def against_roofline(bench: Bench) -> None:
    """Measure a step of about 128 and about 512 computed tokens against its products."""
    where = machine()
    lines = ["# One LoRA step against its matrix products", "", str(where), ""]
    lines += ["Products: frozen weights forward and backward, the low-rank ones, the output layer at labelled"]
    lines += ["positions; without attention's. On the model's own weights, interleaved with the steps: as PyTorch"]
    lines += [
        "multiplies, and with the frozen weights laid out beforehand for oneDNN, as the engine does where it pays.",
        "",
    ]
    lines += [
        "| computed tokens | losses | s/step | products s | step / products | laid out s | step / laid out | target |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    values: dict[str, Any] = {"machine": where}
    for tokens, target, rounds in ((128, 2.1, 7), (512, 1.6, 5)):
        rows = rows_of(bench.rows, tokens)
        batch = build([rows], device=bench.base.device)
        nodes, losses = len(batch.ids), len(batch.states)
        engine = Engine(bench.base, LIMITS)
        engine.join(0, Plan(rows, AdapterConfig(), SftConfig(batch_size=len(rows), epochs=100), seed=1))
        bare, best = (
            products(engine.network, nodes, losses, AdapterConfig().rank, laid_out=laid_out)
            for laid_out in (False, True)
        )
        sides = {
            "step": partial(timed, engine.step),
            "products": partial(timed, bare),
            "laid out": partial(timed, best),
        }
        for side in sides.values():
            side()
        seconds = interleave(sides, rounds=rounds)
        step, plain, laid = (f"{statistics.median(seconds[name]):.3f}" for name in sides)
        found = [ratio(seconds["step"], seconds[name]) for name in ("products", "laid out")]
        lines.append(f"| {nodes} | {losses} | {step} | {plain} | {found[0]} | {laid} | {found[1]} | ≤ {target} |")
        values[str(tokens)] = {"nodes": nodes, "losses": losses, "seconds": seconds, "ratios": found}
    write("step-roofline", "\n".join(lines) + "\n", values)


def rows_of(rows: Sequence[Encoded], tokens: int) -> list[Encoded]:
    """Real rows with about so many tokens to compute, what they share counted once."""
    if tokens < 200:
        return [min(rows, key=lambda row: abs(len(row.input_ids) - tokens))]
    chosen: list[Encoded] = []
    for row in rows:
        nodes = count_nodes([*chosen, row])
        if nodes > tokens:
            break
        chosen.append(row)
    return chosen


if __name__ == "__main__":
    kind = pathlib.PurePath(sys.argv[1] if len(sys.argv) > 1 else "trl").name
    {"trl": against_trl, "roofline": against_roofline}[kind](load())
