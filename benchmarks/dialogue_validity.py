"""How well the measures of a dialogue tell true replies from those of other dialogues.

    python -m benchmarks.dialogue_validity [--experiment FILE] [--task dialogue] [--swaps 3] [--more]
    python -m benchmarks.dialogue_validity --judge experiments/support/judge.yaml

Every turn of all the task's rows is measured with its own reply and with replies that stand at the same place of
dialogues about something else, by the likelihoods of the experiment's base. The area under the ROC curve (AUC) is the
share of pairs of a true and a swapped reply, of any two turns, in which the true one has the higher value. Its
interval is 95%: 2,000 bootstrap draws of dialogues, each with all its true and swapped replies. A measure with an AUC
of 0.75 or more counts as validated, for this base; the lines printed last belong into the task's file.

With `--more`, harder tests stand beside it and decide nothing: the true reply against one with a wrong fact and against
a vague one, from the demo's preference pairs; and what the base's own greedy replies gain, on the same turns. With
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
from tunesmith.data.formats import as_conversation
from tunesmith.data.tasks import item_rows, load_tasks, turns_of
from tunesmith.evaluate.dialogue import APPROPRIATENESS, GAINS, Scorer, contexts, gains, passages_of
from tunesmith.evaluate.harness import live_model, score, scorer_of
from tunesmith.evaluate.knowledge import Evidence
from tunesmith.evaluate.live import Base
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

    def values(self, row: Row, replies: Sequence[str]) -> Values:
        """The gains of several replies to the same turn; each context is read once for all of them."""
        found = contexts(row, self.knowledge, self.task.passages)
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
        measured.setdefault(row["group"], []).append(ground.values(as_conversation(row), texts))
    return {name: separation(measured, name) for name in GAINS}


def main() -> None:
    """Measure, write the dated result, and print what belongs into the task's file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", type=pathlib.Path, default=ROOT / "experiments" / "support.yaml")
    parser.add_argument("--task", default="dialogue")
    parser.add_argument("--swaps", type=int, default=3)
    parser.add_argument("--more", action="store_true", help="the two harder tests too")
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
    size = experiment.evaluation.batch_size
    live = live_model(base, tokenizer, batch_size=size, base=Base(base, model.sha256))
    scorer = scorer_of(live)
    ground = Ground(task, tokenizer, scorer)
    rows = [turn for row in item_rows(task, experiment) for turn in turns_of(row)]
    measured: dict[str, list[Values]] = {}
    for row, texts in with_swapped(rows, arguments.swaps):
        measured.setdefault(row["group"], []).append(ground.values(row, texts))
    result = {"swapped": {name: separation(measured, name) for name in GAINS}, "means": means(measured)}
    if arguments.more:
        own = score(base, tokenizer, {task.name: task}, {task.name: rows}, split="own", batch_size=size, live=live)
        for name, values in result["means"].items():
            values["the base's own"] = own.metrics[f"own/{task.name}/{task.metric(name, scorer.sha256)}"]
        result |= {flaw: flawed(ground, flaw) for flaw in FLAWS}
    report(result, f"{len(measured)} dialogues, {len(rows)} turns, by {experiment.model.base}", scorer.sha256)


def report(result: Mapping[str, Mapping[str, Any]], title: str, sha256: str) -> None:
    """Write the dated result as JSON and as a table, with what belongs into the task's file."""
    areas = ", ".join(f"{name}: {values['auc']:.3f}" for name, values in result["swapped"].items())
    lines = [
        f"# Dialogue measures on {title}",
        table(result),
        "AUC against other replies with its 95% interval and the numbers of true and other replies; means of gains in "
        "nats per token. For the task's file:",
        f"    validity:\n      scorer: {sha256}\n      auc: {{{areas}}}",
    ]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    write(f"{today}-dialogue-validity", "\n\n".join(lines) + "\n", {"machine": machine(), "scorer": sha256, **result})


def means(measured: Mapping[str, list[Values]]) -> dict[str, dict[str, float]]:
    """What true and swapped replies gain on average, by measure."""
    turns = [turn for both in measured.values() for turn in both]
    return {
        name: {
            "true": float(np.mean([turn[0][name] for turn in turns if name in turn[0]])),
            "swapped": float(np.mean([values[name] for turn in turns for values in turn[1:] if name in values])),
        }
        for name in GAINS
    }


def table(result: Mapping[str, Mapping[str, Any]]) -> str:
    """All that was measured, a line for each measure."""
    tests = [name for name in result if name != "means"]
    heads = [*(f"against {name}" for name in tests), *(f"mean, {name}" for name in result["means"][APPROPRIATENESS])]
    lines = [f"| measure | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for name, gained in result["means"].items():
        cells = [*(shown(result[test][name]) for test in tests), *(f"{value:+.3f}" for value in gained.values())]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(values: Mapping[str, Any]) -> str:
    """An AUC with its interval and counts."""
    counts = f"{values['true']} and {values['other']}"
    return f"{values['auc']:.3f} ({values['low']:.3f} to {values['high']:.3f}; {counts})"


if __name__ == "__main__":
    main()
