"""Sweeps over a worker that trains nothing: the real search, study and MLflow runs."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from dataclasses import field
from typing import Any

from benchmarks.orchestration import Idle

from tunesmith.audit.checks import require_clean
from tunesmith.config import Experiment, SearchSpace
from tunesmith.config.space import Sampler
from tunesmith.progress import Progress
from tunesmith.records import Scores
from tunesmith.sweep.budget import Budget
from tunesmith.sweep.coordinator import Coordinator
from tunesmith.sweep.executors import WorkerDied
from tunesmith.sweep.opening import Resume, open_sweep
from tunesmith.sweep.protocol import Done, Ended, Failed, Paused, Segment, Sharing
from tunesmith.sweep.worker import Seat

RANDOM = {"sampler": Sampler(kind="random")}


@dataclasses.dataclass
class Worker(Idle):
    """Done as soon as it is asked; `meanwhile` is called, and `failing` said, of the training of that name.

    It dies of what is `deadly` as often as that says, takes a minute for a part of what is `slow`, and notes which
    segments it was `sent` together.
    """

    clock: list[float] = field(default_factory=list)
    meanwhile: dict[str, Callable[[], object]] = field(default_factory=dict)
    failing: dict[str, Failed] = field(default_factory=dict)
    deadly: dict[str, int] = field(default_factory=dict)
    slow: frozenset[str] = frozenset()
    sent: list[list[str]] = field(default_factory=list)
    sharing: Sharing = field(default_factory=lambda: Sharing(fuse=1, most=1, row_tokens=100.0))
    seat: Seat = field(default_factory=lambda: Seat(0, device=None, threads=1))

    def calibrate(self, experiment: Any) -> Sharing:
        """How trainings are to share passes here."""
        return self.sharing

    def train(self, segments: Any, sharing: Any, listener: Any) -> None:
        """End each segment, and those that come after it, unless one is deadly."""
        keys = [segment.key for segment in segments]
        self.sent.append(keys)
        for key in keys:
            if self.deadly.get(key, 0) > 0:
                self.deadly[key] -= 1
                raise WorkerDied("worker ended with exit code -9; its last lines:\nallocating 8 GiB")
        super().train(segments, sharing, listener)

    def score(self, job: Any) -> Scores:
        """A score of 0 and a tune loss of 3."""
        found: Scores = super().score(job)
        return dataclasses.replace(found, metrics={**found.metrics, "tune/loss": 3.0})

    def ended(self, segment: Segment, listener: Any) -> Ended:
        """The end of a segment; a finished training has an adapter's folder, and a score that falls with its loss."""
        self.meanwhile.pop(segment.key, lambda: None)()
        if segment.key in self.failing:
            return Ended(segment.key, self.failing.pop(segment.key))
        ended: Ended = super().ended(segment, listener)
        if isinstance(ended.outcome, Paused) and segment.key in self.slow:
            return Ended(segment.key, dataclasses.replace(ended.outcome, seconds=60.0))
        if not isinstance(ended.outcome, Done):
            return ended
        primary, loss = segment.job.experiment.evaluation.primary, ended.outcome.trained.metrics["tune/loss"]
        scores = dataclasses.replace(ended.outcome.scores, metrics={primary: 2.0 - loss})
        adapter = pathlib.Path(segment.job.folder) / "adapter"
        adapter.mkdir(parents=True, exist_ok=True)
        (adapter / "adapter_config.json").write_text("{}\n")
        trained = dataclasses.replace(ended.outcome.trained, adapter=str(adapter))
        return Ended(segment.key, dataclasses.replace(ended.outcome, scores=scores, trained=trained))


@contextlib.contextmanager
def opened(
    worker: Worker, *, resume: Resume = Resume.NO, budget: Budget | None = None, **space: Any
) -> Iterator[Coordinator]:
    """The smoke test's sweep in the current folder, with this worker and these fields of its space changed."""
    experiment = Experiment.from_yaml("experiments/smoke.yaml")
    changed = SearchSpace.from_yaml("search_spaces/smoke.yaml").model_copy(update={**RANDOM, **space})
    parent, study = open_sweep(experiment, changed, require_clean(experiment), resume=resume, budget=budget)
    with Progress() as progress, Coordinator(experiment, changed, study, parent, progress) as coordinator:
        coordinator.crew.workers = [worker]
        yield coordinator
