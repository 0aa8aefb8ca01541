"""What the fork server loads for all workers. Imported by it alone, for its effects."""

import contextlib
import ctypes
import logging
import os
import signal

from tunesmith.sweep.forkserver import PARENT

PR_SET_PDEATHSIG = 1  # from linux/prctl.h

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to handle
with contextlib.suppress(OSError, AttributeError):
    # A command that is refused a second after it began must not leave behind a process that loads on.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.environ.get(PARENT) != str(os.getppid()):
    raise SystemExit  # it ended before it could be watched

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a kernel that nothing here needs

import tunesmith.sweep.segments  # noqa: E402
import tunesmith.sweep.workbench  # noqa: E402, F401
