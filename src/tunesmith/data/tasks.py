"""Evaluation items: which rows of which file a task is scored on, in which split."""

import random
import re
from collections.abc import Callable, Mapping, Sequence

from tunesmith.config.experiment import Experiment
from tunesmith.config.task import HARNESS, HarnessTask, Task
from tunesmith.data.dataset import deal, load_rows, source_of
from tunesmith.data.digest import UNVERSIONED
from tunesmith.data.formats import (
    as_conversation,
    check_attack,
    check_canary,
    check_conversation,
    check_for,
    check_question,
    check_text,
)
from tunesmith.data.sources import Source, find_source
from tunesmith.data.split import stratified
from tunesmith.data.stock import find_task, rows_of
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Row

Items = Mapping[str, Sequence[Row]]

COMPARED = ("extract", "extractive", "multiple_choice")
"""The measures that compare with a right answer."""


CHECKS: Mapping[str, Callable[..., None]] = {
    "multiple_choice": check_question,
    "perplexity": check_text,
    "adversarial": check_attack,
    "canary": check_canary,
}
"""What the rows of a measure must look like; conversations for all others."""


def load_tasks(experiment: Experiment) -> dict[str, Task]:
    """The experiment's tasks and suites by name; raises `ConfigError` for a missing or wrong file."""
    folder = experiment.resolve(experiment.evaluation.tasks_dir)
    tasks: dict[str, Task] = {}
    for name, reference in experiment.evaluation.references.items():
        if reference.startswith(HARNESS):
            tasks[name] = find_task(experiment, reference)
            continue
        path = folder / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
            where = experiment.where("evaluation", "suites" if name in experiment.evaluation.suites else "tasks")
            raise ConfigError(f"{where}: {name}: no file {path}; tasks there: {known}")
        tasks[name] = task = Task.from_yaml(path)
        if task.knowledge is not None and not task.resolve(task.knowledge).is_file():
            raise ConfigError(f"{task.where('knowledge')}: there is no file {task.resolve(task.knowledge)}")
    return tasks


def load_items(tasks: Mapping[str, Task], experiment: Experiment, split: str) -> dict[str, Sequence[Row]]:
    """All items of a split by task, each with the examples that it is shown after; of a dialogue, its turns.

    Canaries are what training may have seen, so those dealt to train are the items, whatever the split. Raises
    `DataError` when a task has no items there, when one lacks its right answer, or when all have the same.
    """
    items: dict[str, Sequence[Row]] = {}
    for name, task in tasks.items():
        rows = item_rows(task, experiment)
        wanted = "train" if task.measure == "canary" else split
        dealt = {key: [as_conversation(row) for row in part.rows] for key, part in deal(rows, experiment.data).items()}
        if not dealt[wanted]:
            raise DataError(f"{task.path}: none of its rows falls into {wanted}; add rows or change data.split")
        require_classes(task, dealt[wanted], split)
        items[name] = with_shots(task, dealt[wanted], dealt["train"])
        if task.measure == "dialogue":
            items[name] = [turn for row in items[name] for turn in turns_of(row)]
    return items


def turns_of(row: Row) -> list[Row]:
    """A conversation up to each of the assistant's replies, as rows of its group with the ids `ID-turn-1` and so on."""
    messages = row["messages"]
    ends = [n for n, message in enumerate(messages, start=1) if message["role"] == "assistant"]
    return [
        {**row, "id": f"{row['id']}-turn-{turn}", "messages": messages[:end]} for turn, end in enumerate(ends, start=1)
    ]


def require_classes(task: Task, rows: Sequence[Row], split: str) -> None:
    """Raise `DataError` where a model that always gives the same answer would be right on every item."""
    if task.measure not in COMPARED or len(rows) < 2:
        return
    if len({tuple(right_answers(task, row)) for row in rows}) == 1:
        raise DataError(
            f"{task.path}: all {len(rows)} items in {split} have the same right answer, so always giving it "
            "would score 1; add rows with others or leave the task out"
        )


def with_shots(task: Task, rows: Sequence[Row], examples: Sequence[Row]) -> Sequence[Row]:
    """Items that carry the task's examples, the same for all, drawn from `examples` by the task's seed."""
    if not task.shots:
        return rows
    if len(examples) < task.shots:
        raise DataError(
            f"{task.path}: shots: {task.shots} examples are wanted, {len(examples)} rows are dealt to train"
        )
    drawn = random.Random(task.shots_seed).sample(  # noqa: S311 - no secret
        sorted(examples, key=lambda row: row["id"]), task.shots
    )
    shots = [{key: value for key, value in row.items() if key != UNVERSIONED} for row in drawn]
    return [{**row, "shots": shots} for row in rows]


def right_answers(task: Task, row: Row) -> list[str]:
    """The answers to a row that count as right; raises `DataError` naming the row when it has none."""
    if task.measure == "multiple_choice":
        return [row["choices"][row["answer"]]]
    if task.answer is not None:
        found = row.get(task.answer)
        answers = [found] if isinstance(found, str) else found
        if not isinstance(answers, list) or not answers or not all(isinstance(text, str) for text in answers):
            raise DataError(f"{task.path}: answer: row {row['id']} has no text, or list of texts, in {task.answer}")
        return answers
    reply = row["messages"][-1]["content"]
    if task.measure == "extractive":
        return [reply]
    match = re.search(task.pattern, reply)
    if match is None:
        raise DataError(f"{task.path}: pattern: the reference reply of row {row['id']} has nothing that matches")
    return [match.group(1)]


def item_rows(task: Task, experiment: Experiment) -> Sequence[Row]:
    """All rows that a task's items are dealt from."""
    if isinstance(task, HarnessTask):
        return rows_of(task)
    format = "auto" if task.rows else experiment.data.format
    source = item_source(task, experiment)
    return load_rows(source, item_check(task, experiment), format=format, group_by=experiment.data.split.by)


def item_source(task: Task, experiment: Experiment) -> Source:
    """Where a task's rows come from; of a task of lm-eval, its own file."""
    if isinstance(task, HarnessTask):
        return task.path
    return find_source(task.rows, folder=task.path.parent) if task.rows else source_of(experiment)


def item_check(task: Task, experiment: Experiment) -> Callable[..., None]:
    """The check of the shape that a task needs; the experiment's own rows are what its method trains on."""
    own = check_conversation if task.rows else check_for(experiment.method.kind)
    return CHECKS.get(task.measure, own)


def fewer_items(
    items: Items, tasks: Mapping[str, Task], experiment: Experiment, *, keep_primary: bool
) -> dict[str, Sequence[Row]]:
    """A stratified subset of tune items: at most `trial_items` rows over all tasks.

    Tasks over the same file share their rows. The file of the primary metric's task gets half of
    the rows, the others share the rest. With `keep_primary`, that one task keeps all of its rows.
    """
    name_of_primary = experiment.evaluation.primary.split("/")[1]
    primary = item_source(tasks.get(name_of_primary, next(iter(tasks.values()))), experiment)
    files = {item_source(task, experiment) for task in tasks.values()}
    limit = experiment.evaluation.trial_items
    half = limit if len(files) == 1 else limit // 2
    rest = (limit - half) // max(1, len(files) - 1)
    chosen: dict[str, Sequence[Row]] = {}
    for name, rows in items.items():
        count = half if item_source(tasks[name], experiment) == primary else rest
        whole = keep_primary and name == name_of_primary
        chosen[name] = rows if whole else stratified(rows, count, by=experiment.data.stratify_by)
    return chosen
