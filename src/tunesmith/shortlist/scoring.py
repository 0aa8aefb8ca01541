"""What a candidate scores on the sanity set, without and with examples, by lm-eval on the live model."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.config.experiment import Experiment
from tunesmith.config.task import PROMPTED, HarnessTask, Task
from tunesmith.data.tasks import load_tasks, right_answers, with_shots
from tunesmith.errors import DataError
from tunesmith.evaluate.harness import score
from tunesmith.evaluate.prompts import make_doc
from tunesmith.records import Row, Scores
from tunesmith.shortlist.entry import BITS, FEW_SHOT, ZERO_SHOT, Estimate
from tunesmith.stats.binary import proportion_interval
from tunesmith.stats.effects import CONFIDENCE, interval
from tunesmith.stats.paired import paired_difference

SPLIT = "sanity"
REFERENCE = "reference"
BY_TOKENS = "perplexity"  # no measure between tokenizers; bits per byte are
LIKELIHOOD = {"rouge": ".likelihood", "likelihood": ""}
"""The measures that ask how likely the reference is, and how lm-eval's task is named that does."""


@dataclass(frozen=True)
class Sanity:
    """The sanity set, the tasks that are scored on it, and the rows that examples are drawn from."""

    rows: tuple[Row, ...]
    examples: tuple[Row, ...]
    tasks: Mapping[str, Task]
    shots: int
    seed: int
    skipped: tuple[str, ...] = ()

    def items(self, setting: str) -> dict[str, Sequence[Row]]:
        """The items of each task in a setting; the same examples before all of them."""
        few = setting == FEW_SHOT
        return {
            name: with_shots(task, self.rows, self.examples) if few else self.rows
            for name, task in self.set(setting).items()
        }

    def set(self, setting: str) -> dict[str, Task]:
        """The tasks with as many examples as the setting has."""
        chosen = {"shots": self.shots if setting == FEW_SHOT else 0, "shots_seed": self.seed}
        return {name: task.model_copy(update=chosen) for name, task in self.tasks.items()}


def sanity_tasks(experiment: Experiment, rows: Sequence[Row]) -> tuple[dict[str, Task], list[str]]:
    """The experiment's tasks about replies to its own conversations, and why others were left out.

    How likely the reference replies are is always among what is asked.
    """
    tasks, skipped = {}, []
    for name, task in load_tasks(experiment).items():
        own = task.rows is None and not isinstance(task, HarnessTask)
        if not own or task.measure not in PROMPTED or name not in experiment.evaluation.names:
            continue
        try:
            if task.measure in {"extract", "extractive"}:
                for row in rows:
                    right_answers(task, row)
        except DataError as error:
            skipped.append(f"{name} is not scored: {error}")
            continue
        tasks[name] = task
    if not any(task.measure in LIKELIHOOD for task in tasks.values()):
        tasks[REFERENCE] = Task.from_tree({"measure": "likelihood"}, path=pathlib.Path(f"{REFERENCE}.yaml"))
    return tasks, skipped


def score_candidate(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sanity: Sanity, *, window: int | None, batch_size: int
) -> tuple[dict[str, dict[str, Estimate]], list[str]]:
    """Estimates by setting and metric, and notes on what was not scored because it does not fit into `window`."""
    found, notes = {}, []
    for setting in (ZERO_SHOT, FEW_SHOT):
        tasks, items = sanity.set(setting), sanity.items(setting)
        longest = max(prompt_tokens(tokenizer, tasks[name], rows) for name, rows in items.items())
        if window is not None and longest > window:
            notes.append(f"{setting} is not scored: up to {longest} tokens, more than its window of {window}")
            continue
        scored = score(base, tokenizer, tasks, items, split=SPLIT, batch_size=batch_size)
        found[setting] = estimates(scored, sanity)
    return found, notes


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, task: Task, rows: Sequence[Row]) -> int:
    """Tokens of the longest prompt with its reply."""
    docs = [make_doc(row, task, tokenizer) for row in rows]
    lengths = [len(tokenizer(doc["prompt"], add_special_tokens=False)["input_ids"]) for doc in docs]
    replies = [max(doc["reply_tokens"], task.max_tokens) for doc in docs]
    return max(map(sum, zip(lengths, replies, strict=True)))


def estimates(scored: Scores, sanity: Sanity) -> dict[str, Estimate]:
    """Each metric's mean over the items with its interval; the reference's likelihood in bits per byte."""
    values: dict[str, dict[str, float]] = {}
    for task, items in scored.items.items():
        for item, metrics in items.items():
            for name, value in metrics.items():
                if name != BY_TOKENS:
                    values.setdefault(f"{task}/{name}", {})[item] = value
    values[BITS] = bits_per_byte(scored, sanity)
    return {metric: estimate(found, scored.groups) for metric, found in values.items()}


def bits_per_byte(scored: Scores, sanity: Sanity) -> dict[str, float]:
    """Bits that a model needs for each byte of UTF-8 of an item's reference reply; tokenizers do not matter to it."""
    name = next(
        f"{name}{LIKELIHOOD[task.measure]}" for name, task in sanity.tasks.items() if task.measure in LIKELIHOOD
    )
    sizes = {row["id"]: len(row["messages"][-1]["content"].encode()) for row in sanity.rows}
    return {
        sample["id"]: -sample["filtered_resps"][0][0] / math.log(2) / sizes[sample["id"]]
        for sample in scored.samples
        if sample["task"] == name
    }


def estimate(values: Mapping[str, float], groups: Mapping[str, str]) -> Estimate:
    """The mean of items' values and its 95% interval: Wilson's where all are 0 or 1, else by bootstrap of groups.

    The bootstrap of ten wrong answers has no width. Of grouped rows only so many count as there are groups.
    """
    spread = paired_difference(values, dict.fromkeys(values, 0.0), groups, confidence=CONFIDENCE)
    if all(value in {0.0, 1.0} for value in values.values()):
        bounds = proportion_interval(spread.mean * spread.groups, spread.groups, confidence=CONFIDENCE)
        return Estimate(spread.mean, *bounds, values=values)
    return Estimate(spread.mean, *interval(spread), values=values)
