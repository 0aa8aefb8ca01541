"""A sweep whose worker trains nothing, so that what the coordinator does can be seen in a second."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from benchmarks.orchestration import Idle

from tunesmith.audit.checks import require_clean
from tunesmith.config import Experiment, SearchSpace
from tunesmith.progress import Progress
from tunesmith.sweep.coordinator import Coordinator
from tunesmith.sweep.executors import WorkerDied
from tunesmith.sweep.opening import Resume, open_sweep
from tunesmith.sweep.protocol import Done, Ended, Failed, Sharing


class Scripted(Idle):
    """An idle worker that answers some segments, by their key, with a failure, and notes what it was sent together.

    Of those that are `deadly` it dies as often as it is said.
    """

    def __init__(self, failing: Sequence[str] = (), deadly: Mapping[str, int] = MappingProxyType({})) -> None:
        super().__init__([])
        self.failing, self.deadly = failing, dict(deadly)
        self.sent: list[list[str]] = []

    def calibrate(self, experiment: Any) -> Sharing:
        """Four trainings may share a pass, of batches of two, the smallest in the smoke space."""
        return Sharing(fuse=80, most=4096, row_tokens=10)

    def train(self, segments: Any, sharing: Any, listener: Any) -> None:
        """As the idle one does."""
        keys = [segment.key for segment in segments]
        self.sent.append(keys)
        for key in keys:
            if self.deadly.get(key, 0) > 0:
                self.deadly[key] -= 1
                raise WorkerDied("worker ended with exit code -9; its last lines:\nallocating 8 GiB")
        super().train(segments, sharing, listener)

    def ended(self, segment: Any, listener: Any) -> Ended:
        """A failure, or what the idle one answers, with a folder for an adapter."""
        ended = super().ended(segment, listener)
        if segment.key in self.failing:
            return Ended(segment.key, Failed("loss nan at step 3; lower method.learning_rate", user_error=True))
        if isinstance(ended.outcome, Done):
            trained = dataclasses.replace(ended.outcome.trained, adapter="experiments/smoke")
            return Ended(segment.key, dataclasses.replace(ended.outcome, trained=trained))
        return ended


@contextlib.contextmanager
def coordinated(worker: Idle, **space: Any) -> Iterator[Coordinator]:
    """A coordinator of the smoke sweep in the current project with this worker; `space` changes the search space."""
    experiment = Experiment.from_yaml("experiments/smoke.yaml")
    wanted = SearchSpace.from_yaml("search_spaces/smoke.yaml").model_copy(update=space)
    parent, study = open_sweep(experiment, wanted, require_clean(experiment), resume=Resume.NO)
    with Progress() as progress, Coordinator(experiment, wanted, study, parent, progress) as coordinator:
        coordinator.crew.workers = [worker]
        yield coordinator
