"""How well the measures of a dialogue tell true replies from those of other dialogues.

    python -m benchmarks.dialogue_validity [--experiment FILE] [--task dialogue] [--swaps 3]
    python -m benchmarks.dialogue_validity --judge experiments/support/judge.yaml

Every turn of all the task's rows is measured with its own reply and with replies that stand at the same place of
dialogues about something else, by the likelihoods of the experiment's base. The area under the ROC curve (AUC) is the
share of pairs of a true and a swapped reply, of any two turns, in which the true one has the higher value. Its
interval is 95%: 2,000 bootstrap draws of dialogues, each with all its true and swapped replies. A measure with an AUC
of 0.75 or more counts as validated, for this base; the lines printed last belong into the task's file.

Two harder tests stand beside it and decide nothing: the true reply against one with a wrong fact and against a vague
one, from the demo's preference pairs; and what the base's own greedy replies gain, on the same turns. With
`--judge` an LLM judge is asked instead, and its AUC printed for its file.
"""

import argparse
import datetime
import json
import pathlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from benchmarks.bench import ROOT, machine, write
from tunesmith.comparison.asking import text_of
from tunesmith.comparison.judging import Pair, judge_pairs
from tunesmith.config import Experiment
from tunesmith.config.judge import JudgeConfig
from tunesmith.config.task import Task
from tunesmith.data.tasks import item_rows, load_tasks, turns_of
from tunesmith.evaluate.dialogue import GAINS, Scorer, contexts, gains, passages_of
from tunesmith.evaluate.harness import Base, live_model, score, scorer_of
from tunesmith.evaluate.knowledge import Evidence
from tunesmith.evaluate.requests import renderer
from tunesmith.models.device import fix_threads, keep_memory, place
from tunesmith.models.endpoint import Endpoint
from tunesmith.models.loading import load_base, load_tokenizer
from tunesmith.models.references import resolve
from tunesmith.records import Row

PAIRS = ROOT / "experiments" / "support" / "preferences.jsonl"
FLAWS = ("wrong-fact", "vague")
DRAWS, SEED = 2000, 20_261_125

Values = list[dict[str, float]]
"""Of each reply to a turn, its gain by each measure; the true reply comes first."""


class Ground:
    """What all replies are measured with."""

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, scorer: Scorer) -> None:
        self.task, self.scorer = task, scorer
        self.render, self.knowledge = renderer(tokenizer), Evidence(passages_of(task))

    def values(self, asked: Sequence[dict[str, str]], replies: Sequence[str]) -> Values:
        """The gains of several replies to the same turn; each context is read once for all of them."""
        found = contexts(asked, self.knowledge, self.task.passages)
        prompts = {name: self.render(messages) for name, messages in found.items()}
        pairs = [(prompt, reply) for prompt in dict.fromkeys(prompts.values()) for reply in replies]
        known = dict(zip(pairs, self.scorer.likelihoods(pairs), strict=True))
        return [gains(prompts, reply, lambda wanted: [known[pair] for pair in wanted]) for reply in replies]


def with_swapped(rows: Sequence[Row], swaps: int) -> Iterator[tuple[Row, list[str]]]:
    """Each turn, its own reply, and replies that stand at the same place of `swaps` dialogues of other policies."""
    rng = random.Random(SEED)
    for row in rows:
        place = row["id"].rpartition("-")[2]
        others = [
            other["messages"][-1]["content"]
            for other in rows
            if other["id"].rpartition("-")[2] == place and other["policy"] != row["policy"]
        ]
        yield row, [row["messages"][-1]["content"], *rng.sample(others, min(swaps, len(others)))]


def judged_area(path: pathlib.Path, swaps: int) -> float:
    """A judge's AUC: its mean preference for the true reply over a swapped one, both orders asked."""
    config = JudgeConfig.from_yaml(path)
    experiment = Experiment.from_yaml(config.resolve(config.experiment))
    tasks = load_tasks(experiment)
    rows = [turn for name in config.tasks for row in item_rows(tasks[name], experiment) for turn in turns_of(row)]
    pairs = [
        Pair(f"{row['id']}-{n}", text_of(row), (other, true))
        for row, (true, *others) in with_swapped(rows, swaps)
        for n, other in enumerate(others)
    ]
    judged = judge_pairs(pairs, Endpoint(config).ask, config.prompt)
    return float(np.mean(list(judged.preferences.values())))


def area(true: Sequence[float], other: Sequence[float]) -> float:
    """The AUC: the share of pairs in which the true reply's value is higher, half of those that are equal."""
    difference = np.subtract.outer(np.asarray(true), np.asarray(other))
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def separation(measured: Mapping[str, list[Values]], name: str) -> dict[str, Any]:
    """A measure's AUC with its interval, from the values of the turns of each dialogue."""
    dialogues = [
        (
            [turn[0][name] for turn in turns if name in turn[0]],
            [v[name] for turn in turns for v in turn[1:] if name in v],
        )
        for turns in measured.values()
    ]
    dialogues = [both for both in dialogues if both[0]]
    rng = np.random.default_rng(SEED)
    drawn = [rng.integers(len(dialogues), size=len(dialogues)) for _ in range(DRAWS)]
    low, high = np.quantile([pooled_area([dialogues[n] for n in draw]) for draw in drawn], [0.025, 0.975])
    true, other = (sum(len(both[side]) for both in dialogues) for side in (0, 1))
    return {"auc": pooled_area(dialogues), "low": float(low), "high": float(high), "true": true, "other": other}


def pooled_area(dialogues: Sequence[tuple[list[float], list[float]]]) -> float:
    """The AUC over all replies of some dialogues."""
    return area([v for true, _ in dialogues for v in true], [v for _, other in dialogues for v in other])


def flawed(ground: Ground, flaw: str) -> dict[str, Any]:
    """Each measure's AUC between the good and the flawed replies of the demo's pairs with one flaw."""
    rows = [row for row in map(json.loads, PAIRS.read_text(encoding="utf-8").splitlines()) if row["flaw"] == flaw]
    measured: dict[str, list[Values]] = {}
    for row in rows:
        texts = [row[side][-1]["content"] for side in ("chosen", "rejected")]
        measured.setdefault(row["group"], []).append(ground.values(row["prompt"], texts))
    return {name: separation(measured, name) for name in GAINS}


def main() -> None:
    """Measure, write the dated result, and print what belongs into the task's file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", type=pathlib.Path, default=ROOT / "experiments" / "support.yaml")
    parser.add_argument("--task", default="dialogue")
    parser.add_argument("--swaps", type=int, default=3)
    parser.add_argument("--judge", type=pathlib.Path, metavar="FILE", help="measure this judge instead; sends to it")
    arguments = parser.parse_args()
    if arguments.judge:
        print(f"auc: {judged_area(arguments.judge, arguments.swaps):.3f}")
        return
    keep_memory()
    fix_threads()
    experiment = Experiment.from_yaml(arguments.experiment)
    task = load_tasks(experiment)[arguments.task]
    model = resolve(experiment.model.base)
    tokenizer, base = load_tokenizer(model), load_base(model, place(experiment.model))
    beside = Base(base, model.sha256)
    scorer = scorer_of(live_model(base, tokenizer, experiment.evaluation.batch_size), beside)
    ground = Ground(task, tokenizer, scorer)
    rows = [turn for row in item_rows(task, experiment) for turn in turns_of(row)]
    measured: dict[str, list[Values]] = {}
    for row, texts in with_swapped(rows, arguments.swaps):
        measured.setdefault(row["group"], []).append(ground.values(row["messages"][:-1], texts))
    found = {name: separation(measured, name) for name in GAINS}
    areas = ", ".join(f"{name}: {values['auc']:.3f}" for name, values in found.items())
    print(validity := f"validity:\n  scorer: {scorer.sha256}\n  auc: {{{areas}}}", flush=True)
    flaws = {flaw: flawed(ground, flaw) for flaw in FLAWS}
    own = score(base, tokenizer, {task.name: task}, {task.name: rows}, split="own", batch_size=16, base=beside)
    turns = [turn for both in measured.values() for turn in both]
    means = {
        name: {
            "true replies": float(np.mean([turn[0][name] for turn in turns if name in turn[0]])),
            "swapped replies": float(np.mean([v[name] for turn in turns for v in turn[1:] if name in v])),
            "the base's own replies": own.metrics[f"own/{task.name}/{task.metric(name, scorer.sha256)}"],
        }
        for name in GAINS
    }
    title = f"# Dialogue measures on {len(measured)} dialogues, {len(turns)} turns, by {experiment.model.base}"
    notes = "AUC with 95% interval and numbers of replies; means in nats per token."
    text = "\n\n".join([title, table(found, flaws, means), notes, validity.replace("\n", "\n    ")])
    values = {"machine": machine(), "swapped": found, "flawed": flaws, "means": means, "scorer": scorer.sha256}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    write(f"{today}-dialogue-validity", f"{text}\n", values)


def table(
    found: Mapping[str, Any], flaws: Mapping[str, Mapping[str, Any]], means: Mapping[str, Mapping[str, float]]
) -> str:
    """All that was measured, a line for each measure."""
    named = ["against swapped", *(f"against {flaw}" for flaw in flaws), *next(iter(means.values()))]
    lines = [f"| measure | {' | '.join(named)} |", f"|---|{'---|' * len(named)}"]
    for name in found:
        cells = [shown(found[name]), *(shown(by_name[name]) for by_name in flaws.values())]
        lines.append(f"| {name} | {' | '.join([*cells, *(f'{mean:+.3f}' for mean in means[name].values())])} |")
    return "\n".join(lines)


def shown(values: Mapping[str, Any]) -> str:
    """An AUC with its interval and counts."""
    counts = f"{values['true']} and {values['other']}"
    return f"{values['auc']:.3f} ({values['low']:.3f} to {values['high']:.3f}; {counts})"


if __name__ == "__main__":
    main()
