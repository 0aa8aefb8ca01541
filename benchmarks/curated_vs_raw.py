"""Whether training on what curation kept beats training on everything.

    python benchmarks/curated_vs_raw.py [--rows 240] [--seeds 3] [--out RESULT.json]

Curates `experiments/raw.yaml`, then trains the configuration of `experiments/support.yaml` from each
seed three times: one epoch over `--rows` curated rows, two epochs over the same rows, and one epoch over
twice as many raw rows. The first and the last compare one epoch with one epoch; the second and the last
take equally many optimiser steps. Both subsets are stratified by policy. Raw rows that no trainer could
read (wrong turns, empty turns) are left out of the raw set; all other damage stays in.

Every adapter is scored on the bench split of `conversations.jsonl`. An item's value is its mean over the
seeds; the interval is the paired bootstrap of `tunesmith.stats.paired`, by group, at 95%.
"""

import argparse
import functools
import json
import multiprocessing
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.audit.curate import curate
from tunesmith.audit.material import load_material
from tunesmith.config import Experiment, overrides
from tunesmith.data.formats import check_conversation
from tunesmith.data.readers.lines import read_jsonl
from tunesmith.errors import DataError
from tunesmith.records import Row, Scores
from tunesmith.stats.paired import Difference, paired_difference
from tunesmith.sweep.protocol import Job
from tunesmith.sweep.workbench import Workbench

ROOT = pathlib.Path(__file__).parent.parent
SUPPORT = ROOT / "experiments" / "support"
MEASURES = ("intent/exact_match", "reply/rouge_l", "policy/acc")
COMPARISONS = {"one epoch each": "curated, 1 epoch", "equally many steps": "curated, 2 epochs"}
RIVAL = "raw, 1 epoch"


class Silent:
    """Hears how a training goes and says nothing."""

    def begin(self, steps: int, *, step: int = 0) -> None:
        """A training begins."""

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        """An optimiser step is done."""

    def rung(self, fraction: float, *, step: int, tune_loss: float) -> None:
        """A share of the training is done."""


def experiment_on(rows: Sequence[Row], name: str, folder: pathlib.Path) -> Experiment:
    """The support experiment over other rows, scored on the items of the curated file."""
    source = folder / f"{name}.jsonl"
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    for task in ("intent", "reply", "policy"):
        text = (SUPPORT / "tasks" / f"{task}.yaml").read_text(encoding="utf-8").replace("../", f"{SUPPORT}/")
        text += "" if "rows:" in text else f"rows: {SUPPORT / 'conversations.jsonl'}\n"
        (tasks / f"{task}.yaml").write_text(text, encoding="utf-8")
    values = {"data.source": str(source), "evaluation.tasks_dir": str(tasks)}
    values |= {"evaluation.tasks": ["intent", "reply", "policy"]}  # type: ignore[dict-item]
    return overrides.apply(Experiment.from_yaml(ROOT / "experiments" / "support.yaml"), values)


def readable(rows: Sequence[Row]) -> list[Row]:
    """The rows that training can read at all."""
    kept = []
    for row in rows:
        try:
            check_conversation(row, where="")
        except DataError:
            continue
        kept.append(row)
    return kept


@dataclass(frozen=True)
class Training:
    """One training of an arm: which data, from which seed, for how many epochs over how many rows."""

    arm: str
    data: str
    seed: int
    epochs: int
    rows: int


@functools.lru_cache(maxsize=2)
def bench_on(data: str, folder: pathlib.Path) -> Workbench:
    """The base model with the rows of a set, loaded once in each process."""
    rows = [row for _, row in read_jsonl(folder / f"{data}-rows.jsonl")]
    return Workbench(experiment_on(rows, data, folder))


def train(training: Training, folder: pathlib.Path) -> Scores:
    """Train one adapter and score it on bench."""
    bench = bench_on(training.data, folder)
    values = {"seed": training.seed, "method.epochs": training.epochs, "data.train_rows": training.rows}
    own = folder / f"{training.arm}-{training.seed}".replace(" ", "-")
    job = Job(overrides.apply(bench.experiment, values), "bench", str(own), slots=True)
    done = bench.execute(job, Silent())
    exact = done.scores.metrics["bench/intent/exact_match"]
    print(f"seed {training.seed}, {training.arm}: exact match {exact:.3f}", file=sys.stderr, flush=True)
    return done.scores


def item_means(scores: Sequence[Scores], measure: str) -> dict[str, float]:
    """Each item's value of a measure, averaged over the seeds."""
    task, metric = measure.split("/")
    return {
        item: statistics.mean(score.items[task][item][metric] for score in scores) for item in scores[0].items[task]
    }


def compare(results: Mapping[str, Sequence[Scores]]) -> dict[str, Any]:
    """Means of every arm, and the paired differences of curated and raw."""
    means = {
        arm: {measure: [score.metrics[f"bench/{measure}"] for score in scores] for measure in MEASURES}
        for arm, scores in results.items()
    }
    groups = results[RIVAL][0].groups
    differences = {
        name: {
            measure: plain(
                paired_difference(
                    item_means(results[arm], measure), item_means(results[RIVAL], measure), groups, confidence=0.975
                )
            )
            for measure in MEASURES
        }
        for name, arm in COMPARISONS.items()
    }
    return {"by_seed": means, "curated_minus_raw": differences}


def plain(difference: Difference) -> dict[str, float]:
    """A difference without its resampled means."""
    return {key: value for key, value in vars(difference).items() if key != "means"}


def main() -> int:
    """Curate, train, compare; exit 1 unless curated beats raw on exact match in both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    began, load = time.perf_counter(), os.getloadavg()
    raw = [row for _, row in read_jsonl(SUPPORT / "raw.jsonl")]
    curated = curate(load_material(Experiment.from_yaml(ROOT / "experiments" / "raw.yaml")))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        results, base = run(raw, curated.kept, arguments, folder)
    result = {
        "rows": {"raw": len(raw), "curated": len(curated.kept), "trained_on": [arguments.rows, 2 * arguments.rows]},
        "seeds": list(range(arguments.seeds)),
        "base": {measure: base.metrics[f"bench/{measure}"] for measure in MEASURES},
        **compare(results),
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "load_before": load[0],
        "nice": os.nice(0),
    }
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    wins = [d["intent/exact_match"]["low"] > 0 for d in result["curated_minus_raw"].values()]
    return 0 if all(wins) else 1


def run(
    raw: Sequence[Row], kept: Sequence[Row], arguments: argparse.Namespace, folder: pathlib.Path
) -> tuple[dict[str, list[Scores]], Scores]:
    """Train every arm from every seed, on all cores at once; returns their scores, and those of the base."""
    for name, rows in (("curated", kept), ("raw", readable(raw))):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}-rows.jsonl").write_text(lines, encoding="utf-8")
    arms = [
        Training("curated, 1 epoch", "curated", 0, 1, arguments.rows),
        Training("curated, 2 epochs", "curated", 0, 2, arguments.rows),
        Training(RIVAL, "raw", 0, 1, 2 * arguments.rows),
    ]
    trainings = [replace(arm, seed=seed) for seed in range(arguments.seeds) for arm in arms]
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        base = pool.submit(score_base, folder)
        scores = list(pool.map(train, trainings, [folder] * len(trainings)))
    results: dict[str, list[Scores]] = {arm.arm: [] for arm in arms}
    for training, found in zip(trainings, scores, strict=True):
        results[training.arm].append(found)
    return results, base.result()


def score_base(folder: pathlib.Path) -> Scores:
    """The base's scores on bench."""
    bench = bench_on("curated", folder)
    return bench.score(Job(bench.experiment, "bench", str(folder), train=False))


if __name__ == "__main__":
    sys.exit(main())
