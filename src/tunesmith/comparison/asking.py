"""Which replies of the models compared a judge is asked about."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tunesmith.comparison.changes import reply, samples_of
from tunesmith.comparison.judging import Judgement, Pair, judge_pairs, preference
from tunesmith.config.experiment import Experiment
from tunesmith.config.judge import JudgeConfig
from tunesmith.config.strict import suggestion
from tunesmith.data.digest import digest_of, digest_rows
from tunesmith.data.tasks import load_items, load_tasks
from tunesmith.errors import ConfigError, EvaluationError
from tunesmith.models.endpoint import Endpoint
from tunesmith.records import Row, Scores

SPEAKERS = {"system": "Instructions", "user": "Customer", "assistant": "Desk"}


def ask_judge(config: JudgeConfig, scores: Sequence[Scores], *, split: str) -> Judgement:
    """Have the replies of all models judged against the first model's, task by task.

    An endpoint that fails is part of the judgement. Raises `ConfigError` for a task that was not scored or a key that
    is not set, and `EvaluationError` for conversations that are no longer those that were scored.
    """
    endpoint, asked = Endpoint(config), {}
    for task in config.tasks:
        said = conversations(config, task, scores[0], split=split)
        for rival in range(1, len(scores)):
            asked[task, rival] = drawn(pairs_of(task, said, scores[0], scores[rival]), config.pairs)
    judgement = Judgement(config.model, digest_of(config.tree()), config.label)
    found = []
    try:
        for (task, rival), pairs in asked.items():
            judged = judge_pairs(pairs, endpoint.ask, config.prompt)
            found.append(preference(task, rival, judged, scores[0].groups))
    except EvaluationError as error:
        return replace(judgement, failure=str(error))
    return replace(judgement, preferences=tuple(found))


def conversations(config: JudgeConfig, task: str, scores: Scores, *, split: str) -> dict[str, str]:
    """What was said before each reply of a task, by item."""
    experiment = Experiment.from_yaml(config.resolve(config.experiment))
    tasks = load_tasks(experiment)
    if task not in tasks or task not in scores.items:
        known = [name for name in tasks if name in scores.items]
        raise ConfigError(f"{config.where('tasks')}: {task}: has no scores of {split}{suggestion(task, known)}")
    rows = {row["id"]: row for row in load_items({task: tasks[task]}, experiment, split)[task]}
    chosen = [rows[item] for item in scores.items[task] if item in rows]
    recorded = scores.settings.get("items", {}).get(task)
    if len(chosen) < len(scores.items[task]) or recorded not in {None, digest_rows(chosen)}:
        raise EvaluationError(f"{experiment.path}: the rows of {task} are not those that were scored; score them again")
    return {row["id"]: text_of(row) for row in chosen}


def text_of(row: Row) -> str:
    """A conversation up to the reply, each turn after its speaker."""
    messages = list(row["messages"]) if "messages" in row else [{"role": "user", "content": row.get("question", "")}]
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return "\n".join(f"{SPEAKERS[message['role']]}: {message['content']}" for message in asked)


def pairs_of(task: str, said: Mapping[str, str], first: Scores, second: Scores) -> list[Pair]:
    """Both models' replies to each item; raises `EvaluationError` where they were not kept."""
    ours, theirs = samples_of(first, task), samples_of(second, task)
    if not all(item in ours and item in theirs for item in said):
        raise EvaluationError(f"{task}: replies were not kept with the scores; score the models by tunesmith evaluate")
    return [Pair(item, text, (reply(ours[item]), reply(theirs[item]))) for item, text in said.items()]


def drawn(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """At most so many pairs, the same for the same ids."""
    ordered = sorted(pairs, key=lambda pair: pair.item)
    return random.Random(0).sample(ordered, min(most, len(ordered)))  # noqa: S311 - no secret
