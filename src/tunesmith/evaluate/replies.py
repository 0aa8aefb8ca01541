"""How a policy's greedy replies do by a reward model, as scores like those of tasks: the task `replies`."""

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from transformers import PreTrainedModel

from tunesmith.data.digest import digest_of, digest_rows
from tunesmith.models.decoding import greedy
from tunesmith.models.judge import Judge
from tunesmith.records import Row, Scores

TASK = "replies"


class Asked(Protocol):
    """An encoded prompt."""

    @property
    def input_ids(self) -> list[int]:
        """Its tokens."""


def reply_scores(  # noqa: PLR0913 - a model, a judge, rows, and how to ask
    network: PreTrainedModel,
    judge: Judge,
    rows: Sequence[Row],
    prompts: Sequence[Asked],
    *,
    split: str,
    limit: int,
    ends: Collection[int],
    settings: Mapping[str, Any],
) -> Scores:
    """Scores of greedy replies of up to `limit` tokens: their `reward`, and their length in `tokens`."""
    order = sorted(range(len(rows)), key=lambda n: len(prompts[n].input_ids))
    replies: dict[int, list[int]] = {}
    for start in range(0, len(order), judge.batch_size):
        batch = order[start : start + judge.batch_size]
        found = greedy(network, [prompts[n].input_ids for n in batch], limit=limit, ends=ends)
        replies |= dict(zip(batch, found, strict=True))
    asked = [[reply] if (reply := replies[n]) else [[judge.end]] for n in range(len(rows))]
    given = judge.rewards([prompt.input_ids for prompt in prompts], asked)
    items = {
        row["id"]: {"reward": reward, "tokens": float(len(replies[n]))}
        for n, (row, (reward,)) in enumerate(zip(rows, given, strict=True))
    }
    judged = {**settings, "prompts": digest_rows(rows), "max_reply": limit}
    means = {name: statistics.fmean(values[name] for values in items.values()) for name in ("reward", "tokens")}
    return Scores(
        metrics={f"{split}/{TASK}/{name}": value for name, value in means.items()},
        items={TASK: items},
        groups={row["id"]: row["group"] for row in rows},
        digest=digest_of(judged),
        lower_is_better=(f"{TASK}/tokens",),
        settings=judged,
    )


def together(first: Scores, second: Scores) -> Scores:
    """The scores of one model on different tasks, as one."""
    return Scores(
        metrics={**first.metrics, **second.metrics},
        items={**first.items, **second.items},
        groups={**first.groups, **second.groups},
        digest=digest_of([first.digest, second.digest]),
        samples=(*first.samples, *second.samples),
        lower_is_better=(*(first.lower_is_better or ()), *(second.lower_is_better or ())),
        settings={**first.settings, **second.settings},
    )
