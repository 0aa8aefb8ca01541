"""What DPO from a supervised adapter changes: pairs ranked right, and the desk that replies name.

    python -m benchmarks.dpo_quality [--sft RUN] [--rows 160] [--set KEY=VALUE ...]

Goes on from a supervised adapter (of the run that is named, else of one trained first on `--rows` rows) by DPO on the
demo's preference pairs, and compares the two: the share of unseen pairs (of the splits tune and bench, which neither
training saw) whose chosen reply has the higher log-probability per token, and exact match of the routed desk on the
conversations of `bench`, with paired 95% intervals, groups resampled. Uses the tracking store that
`MLFLOW_TRACKING_URI` names.
"""

import argparse
import pathlib
from typing import Any

from benchmarks.bench import ROOT, change_table, machine, plain, write
from tunesmith import pipeline
from tunesmith.config import Experiment
from tunesmith.config.overrides import apply, parse_assignments
from tunesmith.data.dataset import load_dataset
from tunesmith.models.loading import attach_saved, detach, network_of
from tunesmith.progress import Progress
from tunesmith.stats.paired import paired_difference
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


def main() -> None:
    """Go on from the adapter, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sft", help="the run of a supervised adapter")
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--set", action="append", default=[], help="a field of support-dpo.yaml")
    options = parser.parse_args()
    tuning = apply(Experiment.from_yaml(ROOT / "experiments/support.yaml"), {"data.train_rows": options.rows})
    pairs = Experiment.from_yaml(ROOT / "experiments/support-dpo.yaml")
    result: dict[str, Any] = {**machine(), "set": options.set}
    with Progress() as progress:
        sft = options.sft or pipeline.train_one(tuning, progress)[0]
        going_on = apply(pairs, {"model.base": f"runs:/{sft}", **parse_assignments(options.set)})
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
    changes = {
        "pairs ranked right": (*shares, ranking),
        "right desk named": (*result["intent"], intent),
    }
    write(f"{result['date'][:10]}-dpo-quality", change_table("after SFT", "after DPO from it", changes), result)


if __name__ == "__main__":
    main()
