"""The process that workers are forked from: it loads what they need once, while the coordinator still starts.

PyTorch, PEFT and lm-eval take a process seconds to load, a fork of one that has them a tenth of a second. So it is
started before anything else, serves every worker of a sweep, and those that follow one that died.

A process that has touched a CUDA device cannot be forked, and bitsandbytes touches one as it is loaded; with such a
device workers are spawned instead, of which each loads for itself.
"""

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext

PRELOADED = "tunesmith.sweep.preload"
PARENT = "TUNESMITH_FORK_SERVER_OF"  # tells the fork server the process that it must not outlive


def context() -> ForkServerContext | SpawnContext:
    """How worker processes are made on this machine."""
    if not forks():
        return multiprocessing.get_context("spawn")
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload([PRELOADED])
    return forking


def start() -> None:
    """Begin loading, and return at once; does nothing where workers are spawned.

    To be called in a thread that lives as long as workers are needed: the process ends with it.
    """
    if not forks():
        return
    context()
    before = dict(os.environ)
    # it imports by its environment alone: Python 3.11 does not hand it the path of its parent
    os.environ.update({PARENT: str(os.getpid()), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def forks() -> bool:
    """Whether workers are forked: on Linux, without an accelerator."""
    from tunesmith.models.device import may_have_accelerator  # what the fork server itself does not wait for

    return sys.platform == "linux" and not may_have_accelerator()
