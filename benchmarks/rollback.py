"""How long the whole command `tunesmith rollback` takes, from its start to its exit.

    python -m benchmarks.rollback [--repeats 5]

Builds a registry in a temporary folder (SQLite, artifacts beside it) with two champions of the tiny model, whose
holdout scores are made up: a rollback runs no gates. Then it takes turns: `tunesmith rollback` to the first
version, `tunesmith promote` of the second, each a process of its own, timed from outside. What a rollback does is
read the ledger, verify the former champion's package byte by byte, move the alias and write that down; no model
is loaded. `import` is the time of a process that only imports what the command imports.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import torch

from benchmarks.bench import ROOT, machine, timed, write
from tunesmith import manifest, promotion
from tunesmith.config import Experiment, Policy
from tunesmith.config.experiment import AdapterConfig, ModelConfig
from tunesmith.models.device import place
from tunesmith.models.loading import attach_fresh, load_base
from tunesmith.models.references import resolve
from tunesmith.records import Scores
from tunesmith.registry import evidence
from tunesmith.tracking import runs, store

BASE = "bundled:tiny-llama"
EXPERIMENT, POLICY = "experiments/smoke.yaml", "registry/bot.yaml"
POLICY_TEXT = "model: bot\ngates:\n  - {metric: holdout/intent/exact_match, rule: at_least, value: 0.0}\n"
TARGET_S = 5.0
ITEMS = 60


def build(project: pathlib.Path) -> None:
    """Make the folder a project whose registry has had two champions; the process works there from now on."""
    for name in ("MLproject", "experiments/smoke.yaml", "registry/card.md.j2", "registry/card.html.j2"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    shutil.copytree(ROOT / "experiments/smoke", project / "experiments/smoke")
    (project / POLICY).write_text(POLICY_TEXT, encoding="utf-8")
    os.chdir(project)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{project / 'mlflow.db'}"
    store.client.cache_clear()
    experiment, policy = Experiment.from_yaml(EXPERIMENT), Policy.from_yaml(POLICY)
    for seed in (1, 2):
        run, scores = finished_run(experiment, write_adapter(project / f"adapter-{seed}", seed))
        promotion.register(experiment, policy, run.id, scores)
        promotion.promote(policy, promotion.Request(reason="benchmark"))


def write_adapter(folder: pathlib.Path, seed: int) -> pathlib.Path:
    """An adapter of the tiny model with random matrices."""
    base = load_base(resolve(BASE), place(ModelConfig(base=BASE)))
    model = attach_fresh(base, AdapterConfig(rank=4, alpha=8.0), seed=seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def finished_run(experiment: Experiment, adapter: pathlib.Path) -> tuple[runs.Run, Scores]:
    """A run that ended well with this adapter and made-up holdout scores."""
    items = {f"i{n}": {"exact_match": float(n % 2)} for n in range(ITEMS)}
    scores = Scores({"holdout/intent/exact_match": 0.5}, {"intent": items}, {item: item for item in items}, "made up")
    sha256 = manifest.sha256_file(adapter / "adapter_model.safetensors")
    tags = {"adapter_sha256": sha256, "base_sha256": resolve(BASE).sha256}
    run = runs.create(experiment.name, "champion", kind="confirmation", tags=tags)
    run.artifact(adapter, "adapter")
    run.json(experiment.tree(), "experiment.json")
    evidence.save(run, candidate=scores, base=scores)
    run.metrics(dict(scores.metrics))
    run.finish("FINISHED")
    return run, scores


def command(*arguments: str) -> float:
    """Seconds that a process of this Python took; raises `SystemExit` when it failed."""

    def run() -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{arguments} failed: {done.stderr[-2000:]}")

    return timed(run)


def report(where: dict[str, Any], seconds: dict[str, list[float]]) -> str:
    """The result as Markdown."""
    slowest = max(seconds["rollback"])
    lines = ["# Rollback of a champion", "", str(where), ""]
    lines += ["| command | seconds, median (lowest to highest) | repeats |", "|---|---|---|"]
    lines += [
        f"| {name} | {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}) | {len(values)} |"
        for name, values in seconds.items()
    ]
    held = "held" if slowest <= TARGET_S else "missed"
    return "\n".join([*lines, "", f"The limit of {TARGET_S:g} s was {held}: the slowest took {slowest:.2f} s.", ""])


def main() -> None:
    """Build, measure and write the dated result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    found = machine()
    with tempfile.TemporaryDirectory() as folder:
        build(pathlib.Path(folder).resolve())
        sides = {
            "rollback": lambda: command("-m", "tunesmith", "rollback", POLICY),
            "promote": lambda: command("-m", "tunesmith", "promote", POLICY),
        }
        seconds: dict[str, list[float]] = {name: [] for name in (*sides, "import")}
        for _ in range(repeats):
            for name, side in sides.items():
                seconds[name].append(side())
            seconds["import"].append(command("-c", "import tunesmith.cli, tunesmith.promotion"))
        os.chdir(ROOT)
    write(f"{found['date'][:10]}-rollback", report(found, seconds), {"machine": found, "seconds": seconds})


if __name__ == "__main__":
    main()
