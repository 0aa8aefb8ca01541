"""Start several processes that train together, by torchrun's own launcher, and end all of them together."""

import contextlib
import logging
import os
import pathlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunesmith.config.experiment import Experiment, ModelConfig
from tunesmith.errors import ConfigError, OutcomeError, Terminated, TunesmithError
from tunesmith.train.team import FOLDER, PARALLEL, Parallel, words

MONITOR_SECONDS = 0.2
SHUTDOWN_SECONDS = 30  # for process 0 to close its run


def check(experiment: Experiment, size: int, parallel: Parallel) -> None:
    """Refuse what cannot be shared out; raises `ConfigError`."""
    if size == 1:
        if parallel == "fsdp":
            raise ConfigError("--parallel fsdp: one process has nobody to share weights with; add --nproc")
        return
    if experiment.method.kind == "rlhf":
        raise ConfigError("--nproc: rlhf samples its replies in one process; leave --nproc out")
    most, what = limit(experiment.model)
    if size > most:
        raise ConfigError(f"--nproc {size}: this machine has {most} {what}; use at most {most}")
    if parallel == "fsdp":
        _check_sharding(experiment, what)
    method = experiment.method
    at_once = method.micro_batch or 1
    if method.batch_size % (size * at_once):
        each = f"{size} processes" + (f" with micro_batch {at_once}" if method.micro_batch else "")
        where = experiment.where("method", "batch_size")
        raise ConfigError(f"{where}: {method.batch_size} is not a multiple of {size * at_once}, one pass of {each}")


def limit(model: ModelConfig) -> tuple[int, str]:
    """How many processes can train here, and what limits them."""
    if model.device != "cpu":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.device_count(), "CUDA devices"
    return len(os.sched_getaffinity(0)), "cores"


def _check_sharding(experiment: Experiment, what: str) -> None:
    adapter = experiment.adapter
    if what == "cores":
        raise ConfigError("--parallel fsdp: needs CUDA devices, of which there are none here; use ddp")
    if experiment.method.kind != "sft":
        raise ConfigError(f"--parallel fsdp: trains by sft only, not by {experiment.method.kind}; use ddp")
    if adapter.kind == "qlora" or adapter.init == "pissa":
        name = "adapter.kind qlora" if adapter.kind == "qlora" else "adapter.init pissa"
        raise ConfigError(f"--parallel fsdp: does not shard what {name} makes of a base; use ddp")


def launch(arguments: Sequence[str], experiment: Experiment, size: int, parallel: Parallel) -> None:
    """Run `tunesmith ARGUMENTS` in `size` processes and wait for their end; process 0 prints for all.

    Raises the first failing process's error, once, or `KeyboardInterrupt` for a signal; no process is left then.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each has its own level; what failed is told below, once
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tunesmith-team-"))
    keep, on_cpu = False, limit(experiment.model)[1] == "cores"
    try:
        with _environment(folder, size, parallel, on_cpu=on_cpu):
            elastic_launch(_config(folder, size), sys.executable)("-m", "tunesmith", *arguments)
    except SignalException as stop:
        end_run(folder, "KILLED", signal.Signals(stop.sigval).name)
        raise Terminated("SIGTERM") if stop.sigval == signal.SIGTERM else KeyboardInterrupt from None
    except ChildFailedError as failed:
        codes = {rank: failure.exitcode for rank, failure in failed.failures.items()}
        error, rank, keep = explain(folder, codes, size)
        if rank:  # process 0 has recorded what failed in itself
            end_run(folder, "FAILED", str(error))
        raise error from None
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _config(folder: pathlib.Path, size: int) -> Any:
    """One machine, no restarts; what processes but 0 print goes to files in `folder`."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        run_id=folder.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=MONITOR_SECONDS,
        shutdown_timeout=SHUTDOWN_SECONDS,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs"), redirects=dict.fromkeys(range(1, size), Std.ALL)),
    )


@contextlib.contextmanager
def _environment(folder: pathlib.Path, size: int, parallel: Parallel, *, on_cpu: bool) -> Iterator[None]:
    """What the processes find in their environment: where to leave word, and on a CPU their share of the cores."""
    before = dict(os.environ)
    os.environ.update({FOLDER: str(folder), PARALLEL: parallel})
    if on_cpu:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // size)))
        if sys.platform == "linux":  # all are on this machine, whatever its name resolves to
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def explain(folder: pathlib.Path, codes: Mapping[int, int], size: int) -> tuple[TunesmithError, int, bool]:
    """Why a team failed, in one line; which process failed first; and whether its log is to be kept.

    A process that dies makes the others fail, too, so what a process said of itself as a `TunesmithError` counts
    before a process that a signal ended, and that before any other fault.
    """
    said = words(folder)
    known = next((rank for rank, word in said.items() if word["known"]), None)
    if known is not None:
        error = OutcomeError(said[known]["message"])
        error.exit_code = said[known]["code"]
        return error, known, False
    ended = {rank: -code for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM and rank not in said}
    rank = next(iter(ended), next(iter(said), next(iter(codes))))
    if rank in ended:
        what = f"was ended by {signal.Signals(ended[rank]).name}"
    else:
        what = f"failed: {said[rank]['message']}" if rank in said else f"ended with exit code {codes[rank]}"
    logs = [*folder.glob(f"trace-{rank}.log"), *folder.glob(f"logs/**/{rank}/stderr.log")]
    log = next(iter(logs), None)
    where = f"; its last words are in {log}" if log is not None else ""
    return OutcomeError(f"process {rank} of {size} {what}{where}"), rank if rank in said else -1, log is not None


def end_run(folder: pathlib.Path, status: str, reason: str) -> None:
    """Give the run of a team that failed its true status, unless process 0 has done so."""
    path = folder / "run"
    if not path.is_file() or (status == "KILLED" and (folder / "closed").is_file()):
        return
    from tunesmith.tracking import runs

    runs.attach(path.read_text(encoding="utf-8")).finish(status, reason=reason.splitlines()[0])
