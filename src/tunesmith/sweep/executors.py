"""How a worker is run and spoken to: here, a process on this machine. Another transport would stand beside it."""

import contextlib
import os
import pathlib
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NoReturn, Protocol

from tunesmith.config.experiment import Experiment
from tunesmith.errors import ModelError, OutcomeError, TunesmithError
from tunesmith.records import Scores
from tunesmith.sweep import forkserver
from tunesmith.sweep.protocol import (
    Beat,
    Calibrate,
    Done,
    Ended,
    Failed,
    Interrupted,
    Job,
    Join,
    Message,
    News,
    Order,
    Ready,
    Segment,
    Sharing,
    Stop,
    Train,
)
from tunesmith.sweep.worker import Seat, serve
from tunesmith.tracking.runs import Killed

LOG_TAIL = 15
POLITE_SECONDS = 2.0
LEASE_SECONDS = 120.0


class WorkerDied(Exception):
    """The worker process ended in the middle of a job; the message has its last words."""


class Listener(Protocol):
    """Who hears how the segments of a worker go."""

    def on_news(self, news: News) -> None:
        """A training begins, makes a step, reaches a rung."""

    def on_beat(self) -> None:
        """The worker gives a sign of life, about once a second whatever it does."""

    def on_end(self, ended: Ended) -> tuple[Segment, ...]:
        """A segment ended; gives those that take the free places, without waiting for any."""


class LocalWorker:
    """A worker process, started when first needed and again after it died.

    A process that gives no sign of life for `lease` seconds is ended: what it might still say is lost
    with its pipe, so that nothing is done twice.
    """

    def __init__(self, experiment: Experiment, folder: pathlib.Path, seat: Seat) -> None:
        self.experiment = experiment
        self.seat = seat
        self.log = folder / f"worker-{seat.number}.log"
        self.lease = float(os.environ.get("TUNESMITH_LEASE_SECONDS", LEASE_SECONDS))
        self.process: BaseProcess | None = None
        self.pipe: Connection | None = None
        self.sending = threading.Lock()
        self.busy = self.stopped = False

    def start(self) -> Ready:
        """Start the process and wait until its model is loaded; raises what loading raised."""
        context = forkserver.context()
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, self.experiment, self.seat, str(self.log), dict(os.environ))
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

    def score(self, job: Job) -> Scores:
        """Have a model scored; raises `WorkerDied` when the process ends meanwhile."""
        done = self._ask(job)
        assert isinstance(done, Done)  # noqa: S101 - the protocol's answer
        return done.scores

    def calibrate(self, experiment: Experiment) -> Sharing:
        """Have it measured how slots should share passes."""
        sharing = self._ask(Calibrate(experiment))
        assert isinstance(sharing, Sharing)  # noqa: S101 - the protocol's answer
        return sharing

    def train(self, segments: tuple[Segment, ...], sharing: Sharing, listener: Listener) -> None:
        """Have segments trained, and those that the listener sends after them, until none is left.

        Raises `WorkerDied` when the process ends meanwhile, `Killed` when it was stopped.
        """
        self._ensure_started()
        self._send(Train(segments, sharing))
        places = len(segments)
        self.busy = True
        try:
            while places:
                message = self._receive(listener.on_beat)
                if isinstance(message, News):
                    listener.on_news(message)
                elif isinstance(message, Ended):
                    more = listener.on_end(message)
                    self._send(Join(more))
                    places += len(more) - 1
                else:
                    self._unexpected(message)
        finally:
            self.busy = False

    def _ask(self, order: Job | Calibrate) -> Message:
        self._ensure_started()
        self._send(order)
        message = self._receive()
        if isinstance(message, Done | Sharing):
            return message
        return self._unexpected(message)

    def _ensure_started(self) -> None:
        if self.stopped:
            raise Killed("the sweep was stopped")
        if self.process is None or not self.process.is_alive():
            self.start()

    def _unexpected(self, message: Message) -> NoReturn:
        """Raise what a message other than the expected one means."""
        if isinstance(message, Interrupted):
            raise Killed("the sweep was stopped")
        if isinstance(message, Failed):
            raise OutcomeError(message.message if message.user_error else self._last_words(message))
        raise WorkerDied(f"the worker said {message} at the wrong time")

    def interrupt(self) -> None:
        """Ask the process to save its trainings after this step and leave them."""
        if self.process is not None and self.process.is_alive():
            with contextlib.suppress(WorkerDied):
                self._send(Stop())

    def stop(self) -> None:
        """End the process for good: politely if it is idle, so that it can clean up, else by force."""
        self.stopped = True
        if self.process is None:
            return
        with contextlib.suppress(OSError, WorkerDied):
            self._send(None)
        self.process.join(timeout=POLITE_SECONDS)
        self._end()

    def _send(self, order: Order) -> None:
        try:
            with self.sending:
                self._pipe.send(order)
        except (BrokenPipeError, OSError):
            raise WorkerDied(self._last_words()) from None

    def _receive(self, on_beat: Callable[[], None] = lambda: None) -> Message:
        """The next message that is more than a sign of life."""
        while True:
            try:
                if not self._pipe.poll(self.lease):
                    self._end()
                    raise WorkerDied(f"the worker gave no sign of life for {self.lease:g} s and was ended")
                message: Message = self._pipe.recv()
            except (EOFError, ConnectionResetError):
                if self.process is not None:
                    self.process.join()
                raise WorkerDied(self._last_words()) from None
            if not isinstance(message, Beat):
                return message
            on_beat()

    def _end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()

    @property
    def _pipe(self) -> Connection:
        if self.pipe is None:
            raise WorkerDied("the worker was never started")
        return self.pipe

    def _last_words(self, failed: Failed | None = None) -> str:
        lines = failed.trace.splitlines() if failed else self.log.read_text(errors="replace").splitlines()
        code = self.process.exitcode if self.process else None
        return f"worker ended with exit code {code}; its last lines:\n" + "\n".join(lines[-LOG_TAIL:])
