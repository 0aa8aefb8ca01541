"""Several workers, one for each device or group of cores, each driven by a thread of this process."""

import contextlib
import os
import pathlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from tunesmith.config.experiment import Experiment, ModelConfig
from tunesmith.errors import OutcomeError
from tunesmith.models.device import device_for
from tunesmith.sweep import forkserver
from tunesmith.sweep.executors import LocalWorker, WorkerDied
from tunesmith.sweep.protocol import Ready
from tunesmith.sweep.worker import Seat
from tunesmith.tracking.runs import Killed

MOST_CPU_WORKERS = 2
MAX_DEATHS = 3
SAVING_SECONDS = 15.0  # how long a stop waits for trainings to finish their step and be saved

T = TypeVar("T")

Task = Callable[[LocalWorker], None]


def persistent(task: Callable[[LocalWorker], T]) -> Callable[[LocalWorker], T]:
    """A task that is begun again when its worker dies; after three deaths `OutcomeError` has the last words."""

    def attempt(worker: LocalWorker) -> T:
        for _ in range(MAX_DEATHS - 1):
            with contextlib.suppress(WorkerDied):
                return task(worker)
        try:
            return task(worker)
        except WorkerDied as death:
            raise OutcomeError(f"a worker died {MAX_DEATHS} times at the same work: {death}") from None

    return attempt


class Crew:
    """Several workers, each driven by a thread of this process."""

    def __init__(self, experiment: Experiment, folder: pathlib.Path, seats: list[Seat]) -> None:
        forkserver.start()
        self.workers = [LocalWorker(experiment, folder, seat) for seat in seats]
        self.stopping = False

    def start(self) -> Ready:
        """Start all workers at once and wait until they are ready."""
        with ThreadPoolExecutor(len(self.workers)) as pool:
            first, *_ = pool.map(LocalWorker.start, self.workers)
            return first

    def work(self, take: Callable[[], Task | None]) -> None:
        """Let each worker do the tasks that `take` gives it, until it gives None.

        Raises what the first failing task raised, after ending all workers.
        """
        with ThreadPoolExecutor(len(self.workers)) as pool:
            lanes = [pool.submit(self._lane, worker, take) for worker in self.workers]
            try:
                for lane in as_completed(lanes):
                    lane.result()
                if self.stopping:
                    raise Killed("the sweep was stopped")
            except BaseException:
                self.stop()
                raise

    def each(self, tasks: list[Callable[[LocalWorker], T]]) -> list[T]:
        """Do all tasks, in their order as workers get free; returns their results in that order."""
        results: dict[int, T] = {}
        queue = list(enumerate(tasks))

        def take() -> Task | None:
            if not queue:
                return None
            number, task = queue.pop(0)

            def run(worker: LocalWorker) -> None:
                results[number] = task(worker)

            return run

        self.work(take)
        return [results[number] for number in range(len(tasks))]

    def _lane(self, worker: LocalWorker, take: Callable[[], Task | None]) -> None:
        while not self.stopping and (task := take()) is not None:
            try:
                task(worker)
            except WorkerDied:
                if self.stopping:
                    raise Killed("the sweep was stopped") from None
                raise

    def interrupt(self) -> None:
        """Ask those that train to save what they have and leave it."""
        for worker in self.workers:
            if worker.busy:
                worker.interrupt()

    def stop(self) -> None:
        """End all workers; first let those that train save what they have."""
        self.stopping = True
        self.interrupt()
        until = time.monotonic() + SAVING_SECONDS
        while any(worker.busy for worker in self.workers) and time.monotonic() < until:
            time.sleep(0.05)
        for worker in self.workers:
            worker.stop()


def seats(config: ModelConfig, *, count: int | None = None) -> list[Seat]:
    """Where workers sit: one on each CUDA device; on a CPU two, which share the cores.

    Two workers of one core each do about 1.3 times the work of one worker on two cores, since most
    of a small model's operations do not gain from a second thread. `TUNESMITH_CPU_WORKERS` sets another number.
    """
    if device_for(config) == "cuda":
        import torch

        return [Seat(n, device=n, threads=None) for n in range(count or torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0))
    count = count or min(cores, int(os.environ.get("TUNESMITH_CPU_WORKERS", MOST_CPU_WORKERS)))
    return [Seat(n, device=None, threads=max(1, cores // count)) for n in range(count)]
