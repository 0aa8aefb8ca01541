"""Count how often two models of identical quality are declared different, and how often a better one is found.

    python benchmarks/comparison_errors.py [--comparisons 200]
    python benchmarks/comparison_errors.py --record RUN RUN RUN   # take the items from other scored runs

Simulated from real results: `comparison_items.json` holds what three adapters of the bundled 135M model scored on each
item of the demo's tune rows; two were trained alike from two seeds, one on fewer rows. A simulated model answers every
group of rows as one of the three did, drawn by chance for each group anew, so that all simulated models are equally
good on every item while their answers differ as those of real models do, and rows of a group go right or wrong
together. The groups are drawn with replacement, so that the items differ too.

Two such models are compared by the code of `tunesmith compare`, all metrics at once. Declared: any metric comes out
better or worse. Naive: the models' means of the primary metric differ. Without Holm: some metric's own p-value is
at most 5%. Over items: McNemar's test on the primary metric as if each row were a group of its own.
"""

import argparse
import datetime
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith.comparison.analysis import Comparison, Outcome, analyse, values_of
from tunesmith.records import Scores
from tunesmith.stats.effects import CONFIDENCE, effect

ITEMS = pathlib.Path(__file__).parent / "comparison_items.json"
PRIMARY = "intent/exact_match"
Recorded = Mapping[str, Any]


@functools.cache
def recorded() -> Recorded:
    """The real results: `groups` by item, and by metric and item the values of each real model."""
    found: Recorded = json.loads(ITEMS.read_text(encoding="utf-8"))
    return found


def record(run_ids: Sequence[str]) -> None:
    """Write the per-item results of scored runs, which must have the same digest."""
    from tunesmith.tracking import runs
    from tunesmith.tracking.scores import read_scores

    held = [read_scores(run_id) for run_id in run_ids]
    if len({scores.digest for scores in held}) > 1:
        raise SystemExit("these runs were scored on different items or by different settings")
    metrics = [f"{task}/{name}" for task, items in held[0].items.items() for name in next(iter(items.values()))]
    values = {
        metric: {item: [round(values_of(scores, metric)[item], 4) for scores in held] for item in held[0].items[task]}
        for metric in metrics
        for task in [metric.partition("/")[0]]
    }
    models = [runs.attach(run_id).tag("command") for run_id in run_ids]
    tree = {"models": models, "lower": held[0].lower_is_better, "groups": held[0].groups, "values": values}
    ITEMS.write_text(json.dumps(tree) + "\n", encoding="utf-8")


def draw(rng: np.random.Generator, real: Recorded, metrics: Sequence[str], *, better: float) -> tuple[Scores, Scores]:
    """Two models of identical quality on the same drawn items; the second `better` on the primary metric."""
    members: dict[str, list[str]] = {}
    for item, group in real["groups"].items():
        members.setdefault(group, []).append(item)
    names, count = sorted(members), len(real["models"])
    drawn = rng.choice(names, len(names))
    chosen = rng.integers(count, size=(len(drawn), 2))
    lift = better / (1 - np.mean(list(real["values"][PRIMARY].values())))
    items: tuple[dict[str, dict[str, dict[str, float]]], ...] = ({}, {})
    groups = {f"{n}/{item}": str(n) for n, name in enumerate(drawn) for item in members[name]}
    for metric in metrics:
        task, _, name = metric.partition("/")
        for key, group in groups.items():
            values = real["values"][metric].get(key.partition("/")[2])
            for side in (0, 1) if values else ():
                value = values[chosen[int(group)][side]]
                won = side and metric == PRIMARY and rng.random() < lift
                items[side].setdefault(task, {}).setdefault(key, {})[name] = 1.0 if won else value
    lower = tuple(real["lower"])
    return Scores({}, items[0], groups, "same", (), lower), Scores({}, items[1], groups, "same", (), lower)


def judge(pair: tuple[Scores, Scores], metrics: Sequence[str]) -> tuple[bool, bool, bool, bool, bool]:
    """Whether a pair is declared different, naively, without Holm, and over items; and whether the second is better."""
    found: Comparison = analyse(("first", "second"), pair, split="tune", metrics=metrics)
    primary = next(result for result in found.results if result.metric == PRIMARY)
    first, second = (values_of(scores, PRIMARY) for scores in pair)
    over_items = effect(first, second, {item: item for item in first}).p_value <= 1 - CONFIDENCE
    return (
        found.outcome(1) is not Outcome.INCONCLUSIVE,
        primary.effect.difference != 0,
        any(result.alone is not Outcome.INCONCLUSIVE for result in found.results),
        over_items,
        primary.outcome is Outcome.BETTER,
    )


def simulate(
    real: Recorded, comparisons: int, *, seed: int, metrics: Sequence[str] = (), better: float = 0.0
) -> dict[str, float]:
    """Shares of comparisons that each rule declares."""
    rng, asked = np.random.default_rng(seed), list(metrics) or list(real["values"])
    outcomes = [judge(draw(rng, real, asked, better=better), asked) for _ in range(comparisons)]
    declared, naive, unadjusted, over_items, found = np.mean(outcomes, axis=0)
    shares = {"declared": declared, "naive": naive, "without Holm": unadjusted, "over items": over_items}
    return {
        "comparisons": comparisons,
        **{name: float(share) for name, share in shares.items()},
        "better": float(found),
    }


def main() -> None:
    """Simulate equal models and a better one, and write the dated result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20_261_125)
    parser.add_argument("--record", nargs="+", metavar="RUN")
    arguments = parser.parse_args()
    if arguments.record:
        record(arguments.record)
        return
    real, count, seed = recorded(), arguments.comparisons, arguments.seed
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seed": seed,
        "items": {metric: len(values) for metric, values in real["values"].items()},
        "groups": len(set(real["groups"].values())),
        "identical quality": simulate(real, count, seed=seed),
        "identical quality, one metric": simulate(real, count, seed=seed + 1, metrics=[PRIMARY]),
        "truly 15 points better": simulate(real, count, seed=seed + 2, better=0.15),
    }
    path = pathlib.Path(__file__).parent / "results" / f"{result['date']}-comparison-errors.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
