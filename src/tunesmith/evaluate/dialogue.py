"""How well the replies of a conversation fit, without a reference: by the likelihoods of a base model.

A reply's mean log-likelihood per token is compared between two contexts that differ in one thing. What the reply
gains by that thing is the pointwise mutual information between both, in nats per token, so that a reply which would
do anywhere (Li et al., 2016, A Diversity-Promoting Objective Function) gains nothing. Gains add up along a conversation
(Ren et al., 2023, C-PMI: Conditional Pointwise Mutual Information for Turn-level Dialogue Evaluation). The model
that is asked is the base without any adapter, so that it is the same for every adapter compared; what it would have
said itself it finds likely, so replies of the base are favoured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.config.task import Task
from tunesmith.evaluate.knowledge import Evidence, figures, read_passages
from tunesmith.evaluate.requests import Config, Doc, Render, metrics, replies
from tunesmith.records import Row

Message = dict[str, str]
Likelihoods = Callable[[Sequence[tuple[str, str]]], list[float]]
"""The mean log-likelihood per token, in nats, of each text after its context."""

APPROPRIATENESS = "appropriateness_by_likelihood"
COHERENCE = "coherence_by_likelihood"
SUPPORT = "support_by_retrieved_evidence"
GAINS = {APPROPRIATENESS: ("message", "nothing"), COHERENCE: ("dialogue", "message"), SUPPORT: ("evidence", "dialogue")}
"""Each measure, and the contexts whose likelihoods it is the difference of."""


@dataclass(frozen=True)
class Scorer:
    """By whose likelihoods replies are measured: those of the base with this SHA-256."""

    likelihoods: Likelihoods
    sha256: str


def dialogue(task: Task, scorer: Scorer) -> list[tuple[str, Config]]:
    """What the reply to each turn of a conversation gains, in nats per token; an item is a turn.

    - `appropriateness_by_likelihood`: by the customer's last message, against an empty one in its place;
    - `coherence_by_likelihood`: by all that was said before, against the last message alone (later turns only);
    - `support_by_retrieved_evidence`: by the passages of `knowledge` that BM25 finds for the conversation, against the
      conversation alone (turns that call for facts only: the row's own reply states a figure). It is no check of
      facts: a reply is supported where it says what the passages say.
    """
    knowledge = Evidence(passages_of(task))

    def turn(row: Row, render: Render) -> Doc:
        found = contexts(row, knowledge, task.passages)
        return {
            "id": row["id"],
            "requests": [render(found["dialogue"])],
            "reply": row["messages"][-1]["content"],
            "contexts": {name: render(messages) for name, messages in found.items()},
        }

    def process(doc: Doc, results: Sequence[str]) -> dict[str, float]:
        values = gains(doc["contexts"], results[0], scorer.likelihoods)
        return {task.metric(name, scorer.sha256): value for name, value in values.items()}

    config = {**replies(task, turn), "doc_to_target": lambda doc: doc["reply"], "process_results": process}
    return [("", {**config, "metric_list": metrics(*(task.metric(name, scorer.sha256) for name in GAINS))})]


def passages_of(task: Task) -> tuple[str, ...]:
    """What a task's replies are held against; nothing where it names no `knowledge`."""
    return read_passages(task.path.parent / task.knowledge) if task.knowledge else ()


def contexts(row: Row, knowledge: Evidence, count: int) -> dict[str, list[Message]]:
    """The conversations that replies to a turn are measured after, each with one thing more than the one before.

    A first turn is all of its dialogue. There is no evidence where the row's own reply states no figure, and where no
    passage shares a word with what was said.
    """
    *asked, own = row["messages"]
    first = [message for message in asked[:1] if message["role"] == "system"]
    said = " ".join(message["content"] for message in asked[len(first) :])
    passages = knowledge.search(said, count=count) if figures(own["content"]) else []
    told = {**asked[0], "content": "\n".join([*passages, "", asked[0]["content"]])} if passages else asked[0]
    return {
        "nothing": [*first, {**asked[-1], "content": ""}],
        "message": [*first, asked[-1]],
        "dialogue": asked,
        "evidence": [told, *asked[1:]],
    }


def gains(prompts: Mapping[str, str], reply: str, likelihoods: Likelihoods) -> dict[str, float]:
    """What a reply gains by each measure whose two contexts differ; an empty reply gains nothing."""
    distinct = list(dict.fromkeys(prompts.values()))
    values = dict(zip(distinct, likelihoods([(prompt, reply) for prompt in distinct]), strict=True))
    differing = {name: pair for name, pair in GAINS.items() if prompts[pair[0]] != prompts[pair[1]]}
    return {name: values[prompts[more]] - values[prompts[less]] for name, (more, less) in differing.items()}
