"""What RLHF from a supervised adapter changes: the reward of unseen prompts, the length of replies, the desk they name.

    python -m benchmarks.rlhf [--sft RUN] [--reward RUN] [--tuned RUN] [--set KEY=VALUE ...]

Goes on from a supervised adapter by reinforcement from a reward model (of the runs that are named, else trained first)
and compares the two policies on the conversations of `bench`, which no training saw: mean reward of the greedy reply,
its length in tokens, and exact match of the routed desk, with paired 95% intervals, groups resampled. The KL divergence
is that of sampled replies to the tune split. Uses the tracking store that `MLFLOW_TRACKING_URI` names.
"""

import argparse
import pathlib
import tempfile
from typing import Any

from benchmarks.bench import ROOT, change_table, machine, plain, write
from tunesmith import pipeline
from tunesmith.config import Experiment
from tunesmith.config.overrides import apply, parse_assignments
from tunesmith.progress import Progress
from tunesmith.records import Scores
from tunesmith.stats.paired import paired_difference
from tunesmith.sweep.protocol import Job
from tunesmith.sweep.workbench import Workbench
from tunesmith.tracking import runs, store

MEASURES = {
    "mean reward of a reply": ("replies", "reward"),
    "tokens of a reply": ("replies", "tokens"),
    "right desk named": ("intent", "exact_match"),
}


def experiment_of(name: str, **values: Any) -> Experiment:
    """One of the demo's experiments with some fields changed."""
    return apply(Experiment.from_yaml(ROOT / "experiments" / f"{name}.yaml"), values)


def before_and_after(experiment: Experiment, run: str) -> tuple[Scores, Scores]:
    """The scores on `bench` of the policy that a run went on from, and of what it made of it."""
    bench = Workbench(experiment)
    with tempfile.TemporaryDirectory() as folder:
        adapter = runs.attach(run).download("adapter", pathlib.Path(folder))
        begun, ended = (Job(experiment, "bench", folder, train=False, adapter=path) for path in (None, str(adapter)))
        return bench.score(begun), bench.score(ended)


def main() -> None:
    """Go on from the adapter, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sft", help="the run of a supervised adapter")
    parser.add_argument("--reward", help="the run of a reward model")
    parser.add_argument("--tuned", help="the run of RLHF itself, which then is not trained again")
    parser.add_argument("--set", action="append", default=[], help="a field of support-rlhf.yaml")
    options = parser.parse_args()
    result: dict[str, Any] = {**machine(), "set": options.set}
    with Progress() as progress:
        sft = options.sft or pipeline.train_one(experiment_of("support", **{"data.train_rows": 160}), progress)[0]
        reward = options.reward or pipeline.train_one(experiment_of("support-reward"), progress)[0]
        named = {"model.base": f"runs:/{sft}", "method.reward_model": f"runs:/{reward}"}
        shown = {"evaluation.tasks": ["intent"], "evaluation.suites": []}
        experiment = experiment_of("support-rlhf", **named, **shown, **parse_assignments(options.set))
        run = options.tuned or pipeline.train_one(experiment, progress)[0]
    before, after = before_and_after(experiment, run)
    trained = store.client().get_run(run).data.metrics
    result |= {name: trained[name] for name in ("train/seconds", "tune/kl", "tune/reward")}
    changes = {}
    for name, (task, metric) in MEASURES.items():
        first, second = ({item: v[metric] for item, v in found.items[task].items()} for found in (before, after))
        found = paired_difference(second, first, before.groups, confidence=0.975)
        means = [scores.metrics[f"bench/{task}/{metric}"] for scores in (before, after)]
        changes[name] = (means[0], means[1], found)
        result[f"{task}/{metric}"] = {"means": means, "change": plain(found)}
    text = change_table("after SFT", "after RLHF from it", changes)
    limit = experiment.method.max_kl
    text += f"\nKL divergence {trained['tune/kl']:.2f} nats a reply (limit {limit:g}).\n"
    write(f"{result['date'][:10]}-rlhf", text, result)


if __name__ == "__main__":
    main()
