"""Kinds of adapters side by side on the demo, with the bundled model, full fine-tuning as the reference.

    python -m benchmarks.adapters scores [--rows 160] [--only lora full]
    python -m benchmarks.adapters steps [--rounds 5]

`scores` trains every kind on the same rows for equally many steps, each in a process of its own whose peak memory
is noted, and scores it on the bench split. `steps` times optimiser steps on one batch, all kinds in turn. Both add
to `benchmarks/results/adapters.json` as they go, and write the table `adapters.md`.
"""

import argparse
import gc
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.bench import RESULTS, ROOT, interleave, load, machine, ratio, timed
from benchmarks.curated_vs_raw import Silent
from tunesmith.config import Experiment, overrides
from tunesmith.models.device import place
from tunesmith.models.loading import attach_fresh, full_copy, load_base, network_of
from tunesmith.models.references import resolve
from tunesmith.sweep.protocol import Job
from tunesmith.sweep.workbench import Workbench
from tunesmith.train.loss import collate, supervised_nll
from tunesmith.train.optimiser import optimiser
from tunesmith.train.plan import count_parameters

OUT = RESULTS / "adapters.json"
BATCH = 8
SCORES = ("bench/intent/exact_match", "bench/policy/acc", "bench/reply/rouge_l")
KINDS: dict[str, dict[str, Any]] = {
    "full": {"adapter.kind": "full", "method.learning_rate": 1e-4},
    "lora": {},
    "dora": {"adapter.dora": True},
    "rslora": {"adapter.rslora": True, "adapter.alpha": 8.0},
    "pissa": {"adapter.init": "pissa"},
    "lora+": {"adapter.lora_plus_ratio": 4.0, "method.learning_rate": 5e-4},
    "qlora": {"adapter.kind": "qlora"},
}
"""Each with a fitting learning rate: 1e-3 where none is given. rsLoRA's alpha keeps LoRA's scale at rank 16."""


def experiment_of(kind: str, rows: int) -> Experiment:
    """The demo, one epoch over so many rows, with a kind of adapter."""
    values = {"data.train_rows": rows, "method.epochs": 1, "method.batch_size": BATCH, **KINDS[kind]}
    return overrides.apply(Experiment.from_yaml(ROOT / "experiments" / "support.yaml"), values)


def train_and_score(kind: str, rows: int) -> dict[str, Any]:
    """Train one kind in this process and score it on bench."""
    experiment = experiment_of(kind, rows)
    bench = Workbench(experiment)
    with tempfile.TemporaryDirectory() as folder:
        done = bench.execute(Job(experiment, "bench", folder), Silent())
        assert done.trained is not None  # noqa: S101 - a training job was asked for
        weights = pathlib.Path(done.trained.adapter).glob("*.safetensors")
        size = sum(path.stat().st_size for path in weights)
    _, trained = count_parameters(bench.model, experiment.adapter)
    metrics = done.trained.metrics
    return {
        "trained": trained,
        "peak_memory_mb": round(metrics["train/peak_memory_mb"]),
        "artifact_mb": round(size / 2**20, 1),
        "tune_loss": metrics["tune/loss"],
        "training_seconds": round(metrics["train/seconds"], 1),
        "learning_rate": experiment.method.learning_rate,
        "scores": {name: done.scores.metrics[name] for name in SCORES},
    }


def stepper(kind: str, rows: list[Any]) -> Callable[[], float]:
    """An optimiser step of one kind on a base of its own, in seconds."""
    experiment = experiment_of(kind, len(rows))
    begin = full_copy if kind == "full" else attach_fresh
    quantise = experiment.adapter.kind == "qlora"
    base = load_base(resolve(experiment.model.base), place(experiment.model), quantise=quantise)
    model = begin(base, experiment.adapter, seed=1).train()
    if kind == "full":
        del base
    steps = optimiser(model, experiment)
    batch = collate(rows, pad=0)

    def step() -> None:
        loss, tokens = supervised_nll(network_of(model), *batch)
        (loss / tokens).backward()
        steps.step()
        steps.zero_grad()

    return lambda: timed(step)


def time_steps(rounds: int) -> dict[str, Any]:
    """Seconds of a step of every kind, round by round, after two that do not count."""
    bench = load()
    by_length = sorted(bench.rows, key=lambda row: len(row.input_ids))
    middle = len(by_length) // 2
    rows = by_length[middle : middle + BATCH]
    del bench
    gc.collect()
    sides = {kind: stepper(kind, rows) for kind in KINDS}
    interleave(sides, rounds=2)
    return {"tokens": sum(len(row.input_ids) for row in rows), "seconds": interleave(sides, rounds=rounds)}


def known() -> dict[str, Any]:
    """What earlier runs found."""
    return json.loads(OUT.read_text(encoding="utf-8")) if OUT.is_file() else {}


def keep(values: Mapping[str, Any]) -> None:
    """Write what is known so far, and the table."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    text = table(values)
    OUT.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text, flush=True)


def table(values: Mapping[str, Any]) -> str:
    """Everything known, one line a kind; shares are of full fine-tuning."""
    kinds, seconds = values.get("kinds", {}), values.get("steps", {}).get("seconds", {})
    lines = [
        "| kind | weights trained | peak memory | step | artifact | intent | policy | reply |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        found, cells = kinds.get(kind), [kind, *["" for _ in range(7)]]
        if found:
            whole = kinds.get("full", found)
            cells[1] = f"{found['trained'] / 1e6:.2f}M ({found['trained'] / whole['trained']:.1%})"
            cells[2] = f"{found['peak_memory_mb']} MiB ({found['peak_memory_mb'] / whole['peak_memory_mb']:.0%})"
            cells[4] = f"{found['artifact_mb']} MiB ({found['artifact_mb'] / whole['artifact_mb']:.1%})"
            cells[5:] = [f"{found['scores'][name]:.3f}" for name in SCORES]
        if kind in seconds:
            cells[3] = f"{statistics.median(seconds[kind]):.2f} s ({ratio(seconds[kind], seconds['full'])})"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run one of the two parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["scores", "steps", "one"])
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(KINDS), default=list(KINDS))
    arguments = parser.parse_args()
    if arguments.part == "one":
        print(json.dumps(train_and_score(arguments.only[0], arguments.rows)))
        return 0
    if arguments.part == "steps":
        keep({**known(), "steps": {**machine(), **time_steps(arguments.rounds)}})
        return 0
    for kind in arguments.only:
        command = [sys.executable, "-m", "benchmarks.adapters", "one", "--only", kind, "--rows", str(arguments.rows)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        values = known()
        kinds = {**values.get("kinds", {}), kind: {**found, "rows": arguments.rows}}
        keep({**values, "machine": machine(), "kinds": kinds})
    return 0


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
