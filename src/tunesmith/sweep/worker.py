"""The worker process: one workbench, one job at a time, every word of it over a pipe."""

import contextlib
import os
import signal
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from tunesmith.config.experiment import Experiment
from tunesmith.errors import TunesmithError
from tunesmith.sweep.protocol import Begun, Done, Failed, Job, Rung, StepMetrics, Stopped
from tunesmith.tracking.runs import Killed

if TYPE_CHECKING:
    from tunesmith.sweep.workbench import Workbench


class PipeReporter:
    """Sends what happens to the coordinator, and waits at each rung for its decision."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def begin(self, steps: int) -> None:
        """Send that a training begins."""
        self.pipe.send(Begun(steps))

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        """Send metrics."""
        self.pipe.send(StepMetrics(values, step))

    def rung(self, fraction: float, *, step: int, tune_loss: float) -> None:
        """Ask whether to go on; raises `Killed` if not."""
        self.pipe.send(Rung(fraction, step, tune_loss))
        if not self.pipe.recv():
            raise Killed(f"halved at step {step}")


@dataclass(frozen=True)
class Seat:
    """Where a worker sits: its number, its CUDA device if any, and its threads (all cores when None)."""

    number: int
    device: int | None
    threads: int | None


def serve(pipe: Connection, experiment: Experiment, seat: Seat, log: str) -> None:
    """Load the workbench and do jobs until the coordinator sends None or is gone.

    Ctrl-C is the coordinator's to handle, so this process ignores it; all output goes to `log`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if seat.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(seat.device)
    if seat.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(seat.threads)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            bench = _load(experiment)
        except Exception as error:  # noqa: BLE001 - reported to the coordinator, whatever it is
            pipe.send(failure(error))
            return
        pipe.send(bench.ready())
        while (job := pipe.recv()) is not None:
            pipe.send(_attempt(bench, job, PipeReporter(pipe)))


def _load(experiment: Experiment) -> "Workbench":
    from tunesmith.sweep.workbench import Workbench  # torch and what follows are for the worker alone

    return Workbench(experiment)


def _attempt(bench: "Workbench", job: Job, reporter: PipeReporter) -> Done | Stopped | Failed:
    try:
        return bench.execute(job, reporter)
    except Killed:
        return Stopped()
    except (EOFError, BrokenPipeError):
        raise
    except Exception as error:  # noqa: BLE001 - reported to the coordinator, whatever it is
        return failure(error)


def failure(error: Exception) -> Failed:
    """An error as a message."""
    trace = "".join(traceback.format_exception(error))
    return Failed(str(error) or type(error).__name__, isinstance(error, TunesmithError), trace)
