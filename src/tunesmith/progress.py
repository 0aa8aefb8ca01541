"""What a person sees while work goes on, on stderr: lines that stay, and a bar where there is a terminal."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from tunesmith.config.overrides import short_name


class Progress:
    """Lines and a progress bar; a context manager, so that the bar is gone when it ends."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[loss]}"))
        self.bars = Bars(*columns, *times, console=self.console, transient=True)
        self.task = self.bars.add_task("", visible=False, loss="", total=1)
        self.label = ""

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

    def stage(self, label: str, index: int, count: int) -> None:
        """Name what follows: the index-th of count."""
        self.label = f"{label} {index}/{count}"
        self.bars.update(self.task, description=self.label, visible=False)

    def begin(self, steps: int) -> None:
        """A training of so many optimiser steps begins."""
        self.bars.reset(self.task, total=steps, description=self.label or "training", visible=True, loss="")

    def step(self, values: Mapping[str, float], step: int) -> None:
        """An optimiser step is done."""
        shown = {"loss": f"loss {values['train/loss']:.3f}"} if "train/loss" in values else {}
        self.bars.update(self.task, completed=step, **shown)

    def trial(self, number: int, params: Mapping[str, Any], loss: float, primary: float | None) -> None:
        """A trial ran to its end."""
        score = "" if primary is None else f"  primary {primary:.3f}"
        self.note(f"  trial {number:>3}  tune/loss {loss:.3f}{score}  {describe(params)}")

    def halved(self, number: int, params: Mapping[str, Any], loss: float) -> None:
        """A trial was stopped early."""
        self.note(f"  trial {number:>3}  tune/loss {loss:.3f}  halved  {describe(params)}")


def describe(params: Mapping[str, Any]) -> str:
    """Parameters as short text: the last part of each name, numbers to three figures."""
    shown = {short_name(name): value for name, value in params.items()}
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
