"""The worker process: one workbench, one order at a time, every word of it over a pipe."""

import contextlib
import os
import signal
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from tunesmith.config.experiment import Experiment
from tunesmith.errors import TunesmithError
from tunesmith.sweep.disk import room_on_disk
from tunesmith.sweep.protocol import (
    Beat,
    Calibrate,
    Done,
    Failed,
    Interrupted,
    Job,
    Join,
    Message,
    Order,
    Segment,
    Stop,
    Train,
)

if TYPE_CHECKING:
    from tunesmith.sweep.workbench import Workbench

BEAT_SECONDS = 1.0


class Stopped(Exception):
    """The coordinator asked to stop while it owed an answer."""


@dataclass(frozen=True)
class Seat:
    """Where a worker sits: its number, its threads (all cores when None), and its CUDA device if any.

    The device is counted among those that the coordinator sees.
    """

    number: int
    device: int | None
    threads: int | None


class Line:
    """A worker's end of the pipe; several of its threads may send."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.lock = pipe, threading.Lock()

    def send(self, message: Message) -> None:
        """Send a message."""
        with self.lock:
            self.pipe.send(message)

    def stopping(self) -> bool:
        """Whether a stop has come in; nothing else comes unasked."""
        return self.pipe.poll() and isinstance(self.pipe.recv(), Stop)

    def answer(self) -> tuple[Segment, ...]:
        """Wait for a `Join`; raises `Stopped` if a stop comes instead."""
        answer: Order = self.pipe.recv()
        if isinstance(answer, Join):
            return answer.segments
        raise Stopped

    def beat(self) -> None:
        """Give signs of life until the coordinator is gone."""
        pulse = threading.Event()
        with contextlib.suppress(OSError, ValueError):
            while not pulse.wait(BEAT_SECONDS):
                self.send(Beat())


def serve(pipe: Connection, experiment: Experiment, seat: Seat, log: str, environment: dict[str, str]) -> None:
    """Load the workbench and follow orders until the coordinator sends None or is gone.

    Ctrl-C is the coordinator's to handle, so this process ignores it; all output goes to `log`. A fork has the
    environment of the fork server, which may be older than the sweep, so the coordinator's comes along.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    if seat.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_device(seat.device, environment.get("CUDA_VISIBLE_DEVICES"))
    if seat.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(seat.threads)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    line = Line(pipe)
    threading.Thread(target=line.beat, daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            bench = _load(experiment, seat)
        except Exception as error:  # noqa: BLE001 - reported to the coordinator, whatever it is
            line.send(failure(error))
            return
        line.send(bench.ready())
        while (order := pipe.recv()) is not None:
            _follow(bench, order, line)


def visible_device(number: int, visible: str | None) -> str:
    """The name of the device that CUDA counts as `number` where `CUDA_VISIBLE_DEVICES` is `visible`. Pure.

    A list holds numbers, or UUIDs of GPUs or MIG parts; None says that all are seen.
    """
    return str(number) if visible is None else visible.split(",")[number].strip()


def _load(experiment: Experiment, seat: Seat) -> "Workbench":
    from tqdm import tqdm

    from tunesmith.sweep.workbench import Workbench  # torch and what follows are for the worker alone

    tqdm.set_lock(threading.RLock())  # its own has a semaphore, which a worker that is ended by force leaves behind
    return Workbench(experiment, seat=seat.number)


def _follow(bench: "Workbench", order: Order, line: Line) -> None:
    """Do what is asked; a stop finds nothing to do here, and a `Join` came too late."""
    from tunesmith.sweep.segments import Segments

    try:
        with room_on_disk():
            if isinstance(order, Train):
                Segments(bench, order, line).run()
            elif isinstance(order, Calibrate):
                line.send(bench.calibrate(order.experiment))
            elif isinstance(order, Job):
                line.send(Done(bench.score(order)))
    except Stopped:
        line.send(Interrupted())
    except (EOFError, BrokenPipeError):
        raise
    except Exception as error:  # noqa: BLE001 - reported to the coordinator, whatever it is
        line.send(failure(error))


def failure(error: Exception) -> Failed:
    """An error as a message."""
    trace = "".join(traceback.format_exception(error))
    return Failed(str(error) or type(error).__name__, isinstance(error, TunesmithError), trace)
