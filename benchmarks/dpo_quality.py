"""What DPO from a supervised adapter changes: pairs ranked right, and the desk that replies name.

    python -m benchmarks.dpo_quality [--rows 160] [--rate 2e-4]

Tunes the demo's base on conversations, goes on from that adapter by DPO on the demo's preference pairs, and compares
the two: the share of unseen pairs (of the splits tune and bench, which neither training saw) whose chosen reply has
the higher log-probability per token, and exact match of the routed desk on the conversations of `bench`, with paired
95% intervals, groups resampled. Uses the tracking store that `MLFLOW_TRACKING_URI` names.
"""

import argparse
import pathlib
from typing import Any

from benchmarks.bench import ROOT, machine, write
from tunesmith import pipeline
from tunesmith.config import Experiment
from tunesmith.config.overrides import apply
from tunesmith.data.dataset import load_dataset
from tunesmith.models.loading import attach_saved, detach, network_of
from tunesmith.progress import Progress
from tunesmith.stats.paired import Difference, paired_difference
from tunesmith.sweep.workbench import Workbench
from tunesmith.tracking import runs, store
from tunesmith.train.pairs import encode_pairs
from tunesmith.train.preference import both
from tunesmith.train.reference import policy_logprobs


def ranked_right(experiment: Experiment, run_ids: list[str]) -> list[dict[str, float]]:
    """For each run's adapter: by pair, 1 if the chosen reply is likelier per token, else 0."""
    bench = Workbench(experiment)
    dataset = load_dataset(experiment)
    rows = [*dataset.tune.rows, *dataset.bench.rows]
    pairs = encode_pairs(rows, bench.tokenizer, max_length=experiment.model.max_length)
    found = []
    for run_id in run_ids:
        adapter = runs.attach(run_id).download("adapter", store.state_folder() / "compared" / run_id)
        model = attach_saved(bench.base, pathlib.Path(adapter))
        values = policy_logprobs(network_of(model), both(pairs), batch_size=16)
        detach(model)
        right = {}
        for n, pair in enumerate(pairs):
            chosen, rejected = values[2 * n] / len(pair.chosen), values[2 * n + 1] / len(pair.rejected)
            right[pair.id] = float(chosen > rejected)
        found.append(right)
    return found


def plain(found: Difference) -> dict[str, float]:
    """A difference as values for JSON."""
    return {"mean": found.mean, "low": found.low, "high": found.high, "items": found.items, "groups": found.groups}


def main() -> None:
    """Train twice, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--rate", type=float, default=2e-4)
    options = parser.parse_args()
    tuning = apply(Experiment.from_yaml(ROOT / "experiments/support.yaml"), {"data.train_rows": options.rows})
    pairs = Experiment.from_yaml(ROOT / "experiments/support-dpo.yaml")
    result: dict[str, Any] = {**machine(), "rows": options.rows, "learning_rate": options.rate}
    with Progress() as progress:
        sft, *_ = pipeline.train_one(tuning, progress)
        going_on = apply(pairs, {"model.base": f"runs:/{sft}", "method.learning_rate": options.rate})
        dpo, trained, _ = pipeline.train_one(going_on, progress)
        result["train_seconds"] = trained.metrics["train/seconds"]
        before, after = ranked_right(pairs, [sft, dpo])
        groups = {row["id"]: row["group"] for split in load_dataset(pairs).splits for row in split.rows}
        ranking = paired_difference(after, before, groups, confidence=0.975)
        shares = [sum(right.values()) / len(right) for right in (before, after)]
        result |= {"ranked_right": shares, "ranked_right_change": plain(ranking)}
        scores = [pipeline.evaluate(run, tuning, progress, split="bench", only="intent")[1] for run in (sft, dpo)]
    routed = [{item: v["exact_match"] for item, v in found.items["intent"].items()} for found in scores]
    intent = paired_difference(routed[1], routed[0], scores[0].groups, confidence=0.975)
    result |= {"intent": [s.metrics["bench/intent/exact_match"] for s in scores], "intent_change": plain(intent)}
    lines = [
        "| on the demo, after SFT and after DPO from it | SFT | DPO | change, 95% interval |",
        "|---|---:|---:|---:|",
    ]
    for name, values, change in (
        (f"pairs ranked right ({ranking.items})", shares, ranking),
        (f"right desk named ({intent.items})", result["intent"], intent),
    ):
        interval = f"{change.mean:+.3f}, {change.low:+.3f} to {change.high:+.3f}"
        lines.append(f"| {name} | {values[0]:.3f} | {values[1]:.3f} | {interval} |")
    write(f"{result['date'][:10]}-dpo-quality", "\n".join(lines) + "\n", result)


if __name__ == "__main__":
    main()
