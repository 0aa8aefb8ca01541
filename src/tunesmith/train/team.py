"""The processes that train together under torchrun: who they are, how rows and batches are shared out among them."""

import contextlib
import ctypes
import functools
import json
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from tunesmith.config.experiment import ModelConfig
from tunesmith.config.method import Training
from tunesmith.errors import ConfigError, Terminated, TrainingError, TunesmithError

Parallel = Literal["ddp", "fsdp"]
FOLDER, PARALLEL = "TUNESMITH_TEAM", "TUNESMITH_PARALLEL"
TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
LONGEST_WAIT = timedelta(hours=6)  # while process 0 audits, scores or asks the reference, the others wait for it
PR_SET_PDEATHSIG = 1  # from linux/prctl.h
UNKNOWN_FAULT = 70  # exit code of a fault that is no `TunesmithError`


@dataclass(frozen=True)
class Team:
    """One process among those that train together; a training of one process is a team of one.

    `folder` is where they leave word for the process that launched them.
    """

    rank: int = 0
    size: int = 1
    parallel: Parallel = "ddp"
    folder: pathlib.Path | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes, scores and prints."""
        return self.rank == 0

    @property
    def measures(self) -> bool:
        """Whether this process takes part in measuring; sharded weights can only be gathered by all together."""
        return self.leads or self.parallel == "fsdp"

    @property
    def options(self) -> str:
        """What starts such a team, as `mlflow run` takes it."""
        parallel = " -P parallel=fsdp" if self.parallel == "fsdp" else ""
        return f" -P nproc={self.size}{parallel}" if self.size > 1 else ""

    @property
    def tags(self) -> dict[str, str]:
        """What a run records of it."""
        return {"processes": str(self.size), "parallel": self.parallel} if self.size > 1 else {}

    def rows_at_once(self, method: Training) -> int:
        """Rows of a forward pass of each process: `micro_batch`, else its share of the batch."""
        return method.micro_batch or method.batch_size // self.size

    def passes(self, method: Training) -> int:
        """Forward passes of each process for one optimiser step."""
        return method.batch_size // (self.rows_at_once(method) * self.size)

    def even(self, rows: int) -> int:
        """How many of so many rows are trained on in an epoch: the most that give each process equally many."""
        return rows - rows % self.size

    def announce(self, run_id: str) -> None:
        """Let the launcher know which run is being written, so that it can end it if this process cannot."""
        if self.folder is not None and self.leads:
            (self.folder / "run").write_text(run_id, encoding="utf-8")


@functools.lru_cache(maxsize=1)
def team() -> Team:
    """The team of this process.

    Raises `ConfigError` under a torchrun that is not ours: each of its processes would train alone.
    """
    size, folder = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get(FOLDER)
    if folder is None:
        if size > 1:
            raise ConfigError("do not start this under torchrun, where each process trains alone; use --nproc")
        return Team()
    parallel: Parallel = "fsdp" if os.environ.get(PARALLEL) == "fsdp" else "ddp"
    return Team(int(os.environ["RANK"]), size, parallel, pathlib.Path(folder))


@contextlib.contextmanager
def joined(model: ModelConfig, size: int) -> Iterator[Team]:
    """Be one of `size` processes that train together, as long as the block lasts; end with the launcher.

    Raises `TrainingError` when there are not so many.
    """
    own = team()
    _end_with_launcher(own)
    with left_as_word(own):
        _meet(own, model, size)
        if not own.leads:  # it ends when process 0, which closes the run, hangs up
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        yield own


@contextlib.contextmanager
def left_as_word(own: Team) -> Iterator[None]:
    """Leave what fails in the block as word for the launcher, which alone tells the user, and end this process."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if own.leads and own.folder is not None:
            (own.folder / "closed").touch()
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    except Exception as error:  # noqa: BLE001 - the launcher reports it, whatever it is
        _leave_word(own, error)
        sys.exit(error.exit_code if isinstance(error, TunesmithError) else UNKNOWN_FAULT)


def _meet(own: Team, model: ModelConfig, size: int) -> None:
    """Wait for the others, on this process's own device."""
    import torch
    from accelerate import PartialState

    cpu = model.device == "cpu" or not torch.cuda.is_available()
    if not cpu:
        torch.cuda.set_device(own.rank)  # one machine: ranks are devices
    state = PartialState(cpu=cpu, backend="gloo" if cpu else "nccl", timeout=LONGEST_WAIT)
    check_size(state.num_processes, size)


def check_size(found: int, wanted: int) -> None:
    """Raise `TrainingError` unless as many processes train together as were asked for."""
    if found != wanted:
        raise TrainingError(f"{wanted} processes were asked for and {found} train together; nothing was trained")


def part(own: Team) -> None:
    """The training is over: each process goes its own way, so that what scores a model finds itself alone."""
    if own.size == 1:
        return
    import torch
    from accelerate.state import AcceleratorState, PartialState

    PartialState().wait_for_everyone()
    torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    for name in TORCHRUN:
        os.environ.pop(name, None)


def inside(model: Any, network: Any, compute: Callable[..., Any], *inputs: Any) -> Any:
    """`compute(*inputs)` as the forward pass of `model`, which is `network` or what several processes wrap around it.

    DDP and FSDP do their part in a module's forward pass: gradients of a network that is called past them are
    never brought together, without any error.
    """
    if model is network:
        return compute(*inputs)
    before = network.__dict__.get("forward")
    network.forward = compute
    try:
        return model(*inputs)
    finally:
        del network.forward
        if before is not None:
            network.forward = before


@contextlib.contextmanager
def leader_first(own: Team) -> Iterator[None]:
    """Let process 0 through the block before the others, which then find in a cache what it has computed."""
    if own.size == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState().main_process_first():
        yield


def _end_with_launcher(own: Team) -> None:
    """Have the kernel end this process when its launcher is gone; process 0 by SIGTERM, so that it closes its run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM if own.leads else signal.SIGKILL)


def _leave_word(own: Team, error: Exception) -> None:
    """Write down why this process failed; the launcher takes the first one's word."""
    assert own.folder is not None  # noqa: S101 - the launcher made it
    known = isinstance(error, TunesmithError)
    first = str(error).splitlines()[0] if str(error) else ""
    word = {
        "at": time.time(),
        "known": known,
        "code": error.exit_code if isinstance(error, TunesmithError) else UNKNOWN_FAULT,
        "message": str(error) if known else f"{type(error).__name__}: {first}".removesuffix(": "),
    }
    if not known:
        trace = "".join(traceback.format_exception(error))
        (own.folder / f"trace-{own.rank}.log").write_text(trace, encoding="utf-8")
    aside = own.folder / f".failure-{own.rank}"
    aside.write_text(json.dumps(word), encoding="utf-8")
    aside.rename(own.folder / f"failure-{own.rank}")


def words(folder: pathlib.Path) -> Mapping[int, dict[str, Any]]:
    """What failing processes left behind, by rank, the first one first."""
    found = {int(path.name.rpartition("-")[2]): json.loads(path.read_text()) for path in folder.glob("failure-*")}
    return dict(sorted(found.items(), key=lambda pair: pair[1]["at"]))
