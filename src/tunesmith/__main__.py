"""`python -m tunesmith`, and the script `tunesmith`."""

import atexit
import contextlib
import os
import sys

status = 1


def leave() -> None:
    """End the process at once, with its exit status, instead of taking all loaded modules apart.

    With PyTorch and MLflow loaded, that would take seconds for nothing.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def run() -> None:
    """Run the command line; does not return."""
    global status  # noqa: PLW0603 - an exit handler is told nothing
    atexit.register(leave)  # before anything else registers, so that it comes last
    from tunesmith.cli import main

    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


if __name__ == "__main__":
    run()
