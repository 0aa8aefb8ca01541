"""What an audit reads: the rows as they are, the splits they fall into, and what they are compared with."""

import functools
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tunesmith.audit.text import Vocabulary, normalise
from tunesmith.config.audit import AuditLimits
from tunesmith.config.experiment import Experiment
from tunesmith.config.task import Task
from tunesmith.data.dataset import load_rows, source_of
from tunesmith.data.sources import find_source
from tunesmith.data.split import split_of
from tunesmith.data.tasks import item_rows, item_source, load_tasks
from tunesmith.errors import DataError
from tunesmith.records import Row

HELD_OUT = ("tune", "holdout", "bench")


@dataclass(frozen=True)
class Reference:
    """Rows that training must not see: a name for the report, and each one's id, question and answer."""

    name: str
    ids: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Material:
    """The rows under audit and everything that the checks compare them with."""

    rows: tuple[Row, ...]
    splits: tuple[str, ...]
    """The split of each row."""
    limits: AuditLimits = field(default_factory=AuditLimits)
    references: tuple[Reference, ...] = ()
    """The sanity set and the items of evaluation tasks."""
    knowledge: tuple[str, ...] = ()
    """Texts that answers may quote."""
    labels: tuple[tuple[re.Pattern[str], str | None], ...] = ()
    """How an answer's label is read, and the field of the row that holds the right one, if any does."""
    stratify_by: str = "intent"
    sanity: str = "sanity"
    """The name of the reference that shows what the domain is."""
    vocabulary: Vocabulary = field(default_factory=Vocabulary, repr=False)
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)
    """What several checks need and only one computes."""

    @functools.cached_property
    def questions(self) -> tuple[str, ...]:
        """What the user says in each row, normalised."""
        return tuple(normalise(user_turns(row)) for row in self.rows)

    @functools.cached_property
    def answers(self) -> tuple[str, ...]:
        """What the assistant says in each row, without what the label patterns match."""
        return tuple(self.without_label(assistant_turns(row)) for row in self.rows)

    @functools.cached_property
    def train(self) -> tuple[int, ...]:
        """The positions of the training rows."""
        return tuple(n for n, split in enumerate(self.splits) if split == "train")

    def without_label(self, text: str) -> str:
        """An answer without the line that tasks read its label from."""
        for pattern, _ in self.labels:
            text = pattern.sub("", text)
        return text.strip()

    @functools.cached_property
    def label(self) -> tuple[str, ...]:
        """The label in each row's answer, as the tasks read it; empty where there is none."""
        found = ([p.search(assistant_turns(row)) for p, _ in self.labels] for row in self.rows)
        return tuple(" ".join(match.group(1) for match in matches if match) for matches in found)

    def id(self, row: int) -> str:
        """The id of the row at a position."""
        return str(self.rows[row]["id"])

    def keep(self, rows: Sequence[Row], splits: Sequence[str]) -> "Material":
        """The same comparison for other rows."""
        return replace(self, rows=tuple(rows), splits=tuple(splits), memo={})

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for these rows."""
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]


def turns(row: Row) -> Sequence[Mapping[str, Any]]:
    """The turns of a conversation, of a preference row's prompt and preferred reply, or of a KTO row."""
    if "messages" in row:
        return row["messages"]  # type: ignore[no-any-return]
    return [*row["prompt"], *row.get("chosen", row.get("completion", ()))]


def contents(row: Row, *roles: str) -> str:
    """What those with one of `roles` say in a row, a line for each turn."""
    said = [turn.get("content") for turn in turns(row) if turn.get("role") in roles]
    return "\n".join(text for text in said if isinstance(text, str))


def user_turns(row: Row) -> str:
    """What the user says."""
    return contents(row, "user")


def assistant_turns(row: Row) -> str:
    """What the assistant says."""
    return contents(row, "assistant")


def check_auditable(row: Row, *, where: str) -> None:
    """Raise `DataError` at `where` unless the row has turns at all; what they are worth is for the checks to say."""
    names: tuple[str, ...] = ("messages",)
    if "messages" not in row and ("chosen" in row or "completion" in row):
        names = ("prompt", "chosen", "rejected") if "chosen" in row else ("prompt", "completion")
    for name in names:
        part = row.get(name)
        if not isinstance(part, list) or not part or not all(isinstance(turn, dict) for turn in part):
            raise DataError(f"{where}: {name}: a list of at least one turn, each an object, is needed")


def load_material(experiment: Experiment) -> Material:
    """Read the rows of an experiment and what to compare them with; raises `DataError` by file and line."""
    data = experiment.data
    rows = load_rows(source_of(experiment), check_auditable, format=data.format, group_by=data.split.by)
    tasks = load_tasks(experiment)
    shares = data.split.shares()
    return Material(
        rows=rows,
        splits=tuple(split_of(row["group"], shares) for row in rows),
        limits=data.audit,
        references=tuple(load_references(experiment, tasks)),
        knowledge=tuple(read_text(experiment.resolve(name)) for name in data.knowledge),
        labels=tuple((re.compile(t.pattern), t.answer) for t in tasks.values() if t.measure == "extract"),
        stratify_by=data.stratify_by,
    )


def load_references(experiment: Experiment, tasks: Mapping[str, Task]) -> list[Reference]:
    """The sanity set, and the items of tasks over other files than the source, but those dealt to train."""
    found = []
    if experiment.data.sanity is not None:
        rows = load_rows(find_source(experiment.data.sanity, folder=experiment.path.parent), check_auditable)
        found.append(make_reference("sanity", rows))
    source, shares = source_of(experiment), experiment.data.split.shares()
    for name, task in tasks.items():
        if item_source(task, experiment) == source:
            continue  # its rows are those under audit
        items = [row for row in item_rows(task, experiment) if split_of(row["group"], shares) != "train"]
        if items:
            found.append(make_reference(f"task {name}", items))
    return found


def make_reference(name: str, rows: Sequence[Row]) -> Reference:
    """Questions and answers of conversations or of multiple-choice questions; plain texts as questions."""
    questions, answers = [], []
    for row in rows:
        if "text" in row and "messages" not in row:
            questions.append(normalise(row["text"]))
            answers.append("")
            continue
        asked = "question" in row
        questions.append(normalise(row["question"] if asked else user_turns(row)))
        answers.append(row["choices"][row["answer"]] if asked else assistant_turns(row))
    return Reference(name, tuple(row["id"] for row in rows), tuple(questions), tuple(answers))


def read_text(path: pathlib.Path) -> str:
    """A knowledge file's text; raises `DataError`."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(f"{path}: cannot be read ({reason}); check data.knowledge") from None
