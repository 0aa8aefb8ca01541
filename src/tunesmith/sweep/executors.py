"""Where workers run: here, processes on this machine, one for each device or group of cores."""

import contextlib
import multiprocessing
import os
import pathlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TypeVar

from tunesmith.config.experiment import Experiment, ModelConfig
from tunesmith.errors import ModelError, TunesmithError
from tunesmith.sweep.protocol import Begun, Done, Failed, Job, Message, Ready, Rung, StepMetrics, Stopped
from tunesmith.sweep.worker import Seat, serve
from tunesmith.tracking.runs import Killed

LOG_TAIL = 15
MOST_CPU_WORKERS = 2
POLITE_SECONDS = 2.0

T = TypeVar("T")


class WorkerDied(Exception):
    """The worker process ended in the middle of a job; the message has its last words."""


@dataclass(frozen=True)
class Listener:
    """What to do with a job's messages; `on_rung` says whether to go on."""

    on_step: Callable[[Begun | StepMetrics], None]
    on_rung: Callable[[Rung], bool]


class LocalWorker:
    """A worker process, started when first needed and again after it died."""

    def __init__(self, experiment: Experiment, folder: pathlib.Path, seat: Seat) -> None:
        self.experiment = experiment
        self.seat = seat
        self.log = folder / f"worker-{seat.number}.log"
        self.process: SpawnProcess | None = None
        self.pipe: Connection | None = None

    def start(self) -> Ready:
        """Start the process and wait until its model is loaded; raises what loading raised."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, self.experiment, self.seat, str(self.log))
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        message = self._receive()
        if isinstance(message, Failed):
            self.stop()
            raise ModelError(message.message) if message.user_error else TunesmithError(self._last_words(message))
        if not isinstance(message, Ready):
            raise WorkerDied(f"the worker said {message} before it was ready")
        return message

    def execute(self, job: Job, listener: Listener) -> Done | Stopped | Failed:
        """Have a job done; raises `WorkerDied` when the process ends meanwhile."""
        if self.process is None or not self.process.is_alive():
            self.start()
        self._send(job)
        while True:
            message = self._receive()
            if isinstance(message, Begun | StepMetrics):
                listener.on_step(message)
            elif isinstance(message, Rung):
                self._send(listener.on_rung(message))
            elif isinstance(message, Done | Stopped | Failed):
                return message

    def stop(self) -> None:
        """End the process: politely if it is idle, so that it can clean up, else by force."""
        if self.process is None:
            return
        with contextlib.suppress(OSError, WorkerDied):
            self._pipe.send(None)
        self.process.join(timeout=POLITE_SECONDS)
        self.process.kill()
        self.process.join()

    def _send(self, message: Job | bool) -> None:
        try:
            self._pipe.send(message)
        except (BrokenPipeError, OSError):
            raise WorkerDied(self._last_words()) from None

    def _receive(self) -> Message:
        try:
            message: Message = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            if self.process is not None:
                self.process.join()
            raise WorkerDied(self._last_words()) from None
        return message

    @property
    def _pipe(self) -> Connection:
        if self.pipe is None:
            raise WorkerDied("the worker was never started")
        return self.pipe

    def _last_words(self, failed: Failed | None = None) -> str:
        lines = failed.trace.splitlines() if failed else self.log.read_text(errors="replace").splitlines()
        code = self.process.exitcode if self.process else None
        return f"worker ended with exit code {code}; its last lines:\n" + "\n".join(lines[-LOG_TAIL:])


Task = Callable[[LocalWorker], None]


class Crew:
    """Several workers, each driven by a thread of this process."""

    def __init__(self, experiment: Experiment, folder: pathlib.Path, seats: list[Seat]) -> None:
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

    def stop(self) -> None:
        """End all workers."""
        self.stopping = True
        for worker in self.workers:
            worker.stop()


def seats(config: ModelConfig, *, count: int | None = None) -> list[Seat]:
    """Where workers sit: one on each CUDA device; on a CPU two, which share the cores.

    Two workers of one core each do about 1.3 times the work of one worker on two cores, since most
    of a small model's operations do not gain from a second thread.
    """
    import torch

    if config.device != "cpu" and torch.cuda.is_available():
        return [Seat(n, device=n, threads=None) for n in range(count or torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0))
    count = count or min(cores, MOST_CPU_WORKERS)
    return [Seat(n, device=None, threads=max(1, cores // count)) for n in range(count)]
