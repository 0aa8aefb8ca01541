"""The command line, in a process that dies in the middle: `python -m tests.dying LOG PLACE ARGUMENTS`.

What a process has done to study and run tree is what it has committed there, so a kill leaves no other state than those
between two commits. `LOG` gets a line for each commit of something written: its place, which is what Tunesmith
was doing, innermost first. Before the first commit at `PLACE` the process dies by SIGKILL; if that is empty, it lives.
"""

import os
import pathlib
import signal
import sys
from types import FrameType
from typing import Any

from sqlalchemy import Connection, Engine, event

import tunesmith
from tunesmith.cli import main

DEPTH = 4
WRITES = ("INSERT", "UPDATE", "DELETE")
WROTE = "tunesmith_wrote"
PACKAGE = pathlib.Path(tunesmith.__file__).resolve().parent


def place_of_this() -> str:
    """The innermost functions of Tunesmith on the stack."""
    frame: FrameType | None = sys._getframe()
    names = []
    while frame is not None:
        path = pathlib.Path(frame.f_code.co_filename).resolve()
        if PACKAGE in path.parents:
            names.append(f"{path.stem}.{frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(names[:DEPTH])


def die_at(last: str, log: pathlib.Path) -> None:
    """From now on note commits of what was written, and die before the first at this place."""

    def executing(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().upper().startswith(WRITES):
            connection.info[WROTE] = True

    def committing(connection: Connection) -> None:
        if connection.info.pop(WROTE, False):
            place = place_of_this()
            with log.open("a", encoding="utf-8") as lines:
                lines.write(f"{place}\n")
            if place == last:
                os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", executing)
    event.listen(Engine, "commit", committing)
    event.listen(Engine, "rollback", lambda connection: connection.info.pop(WROTE, None))


if __name__ == "__main__":
    die_at(sys.argv[2], pathlib.Path(sys.argv[1]))
    main(sys.argv[3:])
