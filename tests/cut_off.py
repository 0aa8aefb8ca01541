"""Sweeps over a worker that trains nothing, cut off between two writes and resumed, each in a process of its own.

`python -m tests.cut_off PROJECT PLACE PROJECT PLACE ...` loads everything once and forks each of them.
"""

import multiprocessing
import os
import pathlib
import signal
import sys

from tests import dying
from tests.idle import Worker, opened
from tunesmith.records import Scores
from tunesmith.sweep.budget import Budget
from tunesmith.sweep.closing import log_search, log_winner
from tunesmith.sweep.confirmation import confirm
from tunesmith.sweep.opening import Resume
from tunesmith.sweep.search import Search


def sweep(project: pathlib.Path, place: str, resume: Resume) -> None:
    """A sweep of four trials up to its winner, which dies before the first commit at `place`."""
    os.chdir(project)
    os.environ["TUNESMITH_STUDY_STORAGE"] = f"sqlite:///{project / 'optuna.db'}"
    dying.die_at(place, project / "commits.log")
    with opened(Worker(), resume=resume) as coordinator:
        Search(coordinator, Budget(4)).run()
        candidates = confirm(coordinator)
        log_search(coordinator, "cpu", candidates)
        primary = coordinator.experiment.evaluation.primary
        log_winner(coordinator, candidates[0], Scores({primary: 0.5}, {}, {}, "made up"))
    coordinator.parent.finish("FINISHED")


def in_a_process(project: pathlib.Path, place: str, resume: Resume) -> int | None:
    """Its exit code."""
    process = multiprocessing.get_context("fork").Process(target=sweep, args=(project, place, resume))
    process.start()
    process.join()
    return process.exitcode


def main(arguments: list[str]) -> None:
    """Exits with 1 if one did not end as it was to."""
    for name, place in zip(arguments[::2], arguments[1::2], strict=True):
        project = pathlib.Path(name)
        ends = [in_a_process(project, place, Resume.NO)]
        if place:
            ends.append(in_a_process(project, "", Resume.YES))
        if ends != ([-signal.SIGKILL, 0] if place else [0]):
            sys.exit(f"{place}: ended with {ends}")


if __name__ == "__main__":
    main(sys.argv[1:])
