"""What a person sees while work goes on, on stderr: lines that stay, and bars where there is a terminal."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from tunesmith.config.overrides import short_name

T = TypeVar("T")

ROWS_PER_UPDATE = 1_000


class Bars(RichProgress):
    """Bars, below a table if there is one."""

    table: Table | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn."""
        if self.table is not None:
            yield self.table
        yield self.make_tasks_table(self.tasks)


class Bar:
    """The progress of one job; hidden until the job's length is known."""

    def __init__(self, bars: Bars, task: TaskID) -> None:
        self.bars = bars
        self.task = task

    def begin(self, steps: int, *, step: int = 0) -> None:
        """A training of so many optimiser steps begins, or goes on after `step` of them."""
        self.bars.update(self.task, total=steps, completed=step, visible=True)

    def step(self, values: Mapping[str, float], step: int) -> None:
        """An optimiser step is done."""
        if "train/loss" in values:
            self.bars.update(self.task, completed=step, loss=f"loss {values['train/loss']:.3f}")

    def at(self, done: int, total: int, label: str) -> None:
        """So many of so many pieces of work are done, and this one is under way."""
        self.bars.update(self.task, completed=done, total=total, description=label, visible=True)


class Progress:
    """Lines and bars; a context manager, so that the bars are gone when it ends."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[loss]}"))
        self.bars = Bars(*columns, *times, console=self.console, transient=True)
        self.noted: set[str] = set()

    def __enter__(self) -> "Progress":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, markup=False)

    def note_once(self, text: str, *, about: str) -> None:
        """Print a line that stays, unless there was one about the same."""
        if about not in self.noted:
            self.noted.add(about)
            self.note(text)

    def table(self, title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Show a table above the bars, in place of the one before; seen on a terminal only."""
        shown = Table(*heads, title=title, title_justify="left", box=None, pad_edge=False)
        for row in rows:
            shown.add_row(*row)
        self.bars.table = shown

    def end_table(self) -> None:
        """Take the table away."""
        self.bars.table = None

    @contextlib.contextmanager
    def job(self, label: str) -> Iterator[Bar]:
        """A bar that lasts as long as the block."""
        task = self.bars.add_task(label, visible=False, loss="", total=None)
        try:
            yield Bar(self.bars, task)
        finally:
            self.bars.remove_task(task)

    def count(self, label: str, rows: Iterable[T]) -> Iterator[T]:
        """Pass rows on, showing how many there were so far; how many will come is not known."""
        task = self.bars.add_task(label, loss="", total=None)
        try:
            for number, row in enumerate(rows, 1):
                if number % ROWS_PER_UPDATE == 0:
                    self.bars.update(task, completed=number)
                yield row
        finally:
            self.bars.remove_task(task)


def describe(params: Mapping[str, Any]) -> str:
    """Parameters as short text: the last part of each name, numbers to three figures."""
    shown = {short_name(name): value for name, value in params.items()}
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())


def plural(count: int, thing: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{count} {thing}{'' if count == 1 else 's'}"
