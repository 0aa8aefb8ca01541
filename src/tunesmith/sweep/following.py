"""Trainings as they are followed: each into its MLflow run, with a bar on the terminal."""

import contextlib
import pathlib
from dataclasses import dataclass
from typing import Any

from tunesmith.pages import curves
from tunesmith.progress import Bar, Progress
from tunesmith.records import Scores, TrainedRun
from tunesmith.sweep.protocol import Begun, Inherited, News, Routed, Rung, StepMetrics, Warned
from tunesmith.tracking.runs import Run
from tunesmith.train.curves import overfitting_step

CURVES = "report/curves.svg"


@dataclass(frozen=True)
class Followed:
    """A training's run and bar; closing the stack takes the bar away."""

    run: Run
    bar: Bar
    stack: contextlib.ExitStack


class Follower:
    """Writes down the news of several trainings."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.followed: dict[str, Followed] = {}

    def follow(self, key: str, run: Run) -> None:
        """Begin to follow a training."""
        stack = contextlib.ExitStack()
        self.followed[key] = Followed(run, stack.enter_context(self.progress.job(key)), stack)

    def leave(self, key: str) -> Run:
        """Follow a training no more; its run is flushed, not ended."""
        followed = self.followed.pop(key)
        followed.stack.close()
        followed.run.flush()
        return followed.run

    def leave_all(self) -> list[str]:
        """Follow none any more; returns the keys of those that were followed."""
        keys = list(self.followed)
        for key in keys:
            self.leave(key)
        return keys

    def on_news(self, news: News) -> None:
        """Write down what a training reports."""
        followed = self.followed[news.key]
        if isinstance(news, Begun):
            followed.bar.begin(news.steps, step=news.step)
        elif isinstance(news, StepMetrics):
            followed.run.metrics(news.values, step=news.step)
            followed.bar.step(news.values, news.step)
        elif isinstance(news, Rung):
            followed.run.metrics({"tune/progress": news.fraction}, step=news.step)
        elif isinstance(news, Routed):
            self._routed(news, followed.run)
        elif isinstance(news, Inherited):
            followed.run.tags({"warm_step": news.step})
        elif isinstance(news, Warned):
            self.progress.note(f"  {news.key}: {news.text}")

    def _routed(self, news: Routed, run: Run) -> None:
        """Tag the run with its engine; of each reason against the slots engine, the first training is told."""
        run.tags({"engine": news.engine if news.reason is None else f"{news.engine}: {news.reason}"})
        if news.reason is not None:
            text = f"  {news.key}: goes through {news.engine} instead of the slots engine: {news.reason}"
            self.progress.note_once(text, about=news.reason)

    def on_beat(self) -> None:
        """Write what has waited long enough; while a model is scored, no step comes to do so."""
        for followed in self.followed.values():
            followed.run.flush_if_due()


class RunReporter:
    """Writes a training's progress to its run and to the terminal."""

    def __init__(self, run: Run, progress: Progress, bar: Bar) -> None:
        self.run = run
        self.progress = progress
        self.bar = bar

    def begin(self, steps: int, *, step: int = 0) -> None:
        """A training begins."""
        self.bar.begin(steps, step=step)

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        """An optimiser step is done."""
        self.run.metrics(values, step=step)
        self.bar.step(values, step)

    def rung(self, fraction: float, *, step: int, tune_loss: float) -> None:
        """A share of the training is done."""
        self.progress.note(f"  {fraction:>4.0%}  step {step}  tune/loss {tune_loss:.3f}")


def log_training(run: Run, trained: TrainedRun) -> None:
    """Log the summary of a training, its losses as a picture, and SHA-256s of its weights, which replays compare.

    Of its curves it logs what a coordinator that was killed has not.
    """
    for name, points in trained.curves.items():
        for step, value in points:
            run.metrics({name: value}, step=step)
    run.metrics({name: value for name, value in trained.metrics.items() if name not in trained.curves})
    overfit = str(trained.overfit).lower()
    run.tags({"overfit": overfit, "adapter_sha256": trained.adapter_sha256, "engine": trained.engine})
    if trained.stopped:
        run.tags({"stopped": trained.stopped})
    if trained.fingerprints:
        run.json(dict(trained.fingerprints), "fingerprints.json")
    train, tune = trained.curves["train/loss"], trained.curves["tune/loss"]
    run.text(curves.losses(train, tune, overfit_from=overfitting_step(train, tune)), CURVES)


def log_adapter(run: Run, trained: TrainedRun) -> None:
    """Keep a trained adapter with its run."""
    run.artifact(pathlib.Path(trained.adapter), "adapter")


def describe_end(scores: Scores, trained: TrainedRun, primary: str) -> str:
    """How a training that was scored ended, as text."""
    values: dict[str, Any] = {"tune/loss": trained.metrics["tune/loss"], primary: scores.metrics[primary]}
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())
