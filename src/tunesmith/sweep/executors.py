"""Where a worker runs: here, a process on this machine."""

import multiprocessing
import pathlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from tunesmith.config.experiment import Experiment
from tunesmith.errors import ModelError, TunesmithError
from tunesmith.sweep.protocol import Begun, Done, Failed, Job, Message, Ready, Rung, StepMetrics, Stopped
from tunesmith.sweep.worker import serve

LOG_TAIL = 15


class WorkerDied(Exception):
    """The worker process ended in the middle of a job; the message has its last words."""


class LocalWorker:
    """A worker process, started when first needed and again after it died."""

    def __init__(self, experiment: Experiment, folder: pathlib.Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.experiment = experiment
        self.log = folder / "worker.log"
        self.process: SpawnProcess | None = None
        self.pipe: Connection | None = None

    def start(self) -> Ready:
        """Start the process and wait until its model is loaded; raises what loading raised."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.experiment, str(self.log)), daemon=True)
        self.process.start()
        theirs.close()
        message = self._receive()
        if isinstance(message, Failed):
            self.stop()
            raise ModelError(message.message) if message.user_error else TunesmithError(self._last_words(message))
        if not isinstance(message, Ready):
            raise WorkerDied(f"the worker said {message} before it was ready")
        return message

    def execute(
        self, job: Job, *, on_step: Callable[[Begun | StepMetrics], None], on_rung: Callable[[Rung], bool]
    ) -> Done | Stopped | Failed:
        """Have a job done; raises `WorkerDied` when the process ends meanwhile."""
        if self.process is None or not self.process.is_alive():
            self.start()
        self._send(job)
        while True:
            message = self._receive()
            if isinstance(message, Begun | StepMetrics):
                on_step(message)
            elif isinstance(message, Rung):
                self._send(on_rung(message))
            elif isinstance(message, Done | Stopped | Failed):
                return message

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self.process = None

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
