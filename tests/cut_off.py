"""Sweeps over a worker that trains nothing, cut off between two writes and resumed, each in a process of its own.

`python -m tests.cut_off PROJECT SPACE PLACE PROJECT SPACE PLACE ...` loads everything once and forks each of them.
"""

import importlib
import multiprocessing
import os
import pathlib
import signal
import sys
from typing import Any

from tests import dying
from tests.idle import Worker, opened
from tunesmith.config.space import Limits
from tunesmith.records import Scores
from tunesmith.sweep.budget import Budget
from tunesmith.sweep.closing import log_search, log_winner
from tunesmith.sweep.confirmation import confirm
from tunesmith.sweep.opening import Resume
from tunesmith.sweep.search import Search

LOADED_LATE = (
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna.importance._fanova._evaluator",
    "optuna.storages._rdb.alembic",
    "plotly.graph_objects",
    "plotly.validators",
)
"""What a sweep loads when it comes to need it, which every fork would do again."""

SPACES = {
    "plain": (Worker(), {}),
    "limited": (Worker(slow=frozenset({"trial-002"})), {"limits": Limits(seconds=60.0, memory_mb=2.0)}),
}
"""Of four trials the limits let one be trained: two would need too much memory, one is too slow."""


def sweep(project: pathlib.Path, space: str, place: str, resume: Resume) -> None:
    """A sweep of four trials up to its winner, which dies before the first commit at `place`."""
    os.chdir(project)
    os.environ["TUNESMITH_STUDY_STORAGE"] = f"sqlite:///{project / 'optuna.db'}"
    dying.die_at(place, project / "commits.log")
    worker, changes = SPACES[space]
    with opened(worker, resume=resume, **changes) as coordinator:
        Search(coordinator, Budget(4)).run()
        candidates = confirm(coordinator)
        log_search(coordinator, "cpu", candidates)
        primary = coordinator.experiment.evaluation.primary
        log_winner(coordinator, candidates[0], Scores({primary: 0.5}, {}, {}, "made up"))
    coordinator.parent.finish("FINISHED")


def in_a_process(*arguments: Any) -> int | None:
    """Its exit code."""
    process = multiprocessing.get_context("fork").Process(target=sweep, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def main(arguments: list[str]) -> None:
    """Exits with 1 if one did not end as it was to."""
    for module in LOADED_LATE:
        importlib.import_module(module)
    for name, space, place in zip(arguments[::3], arguments[1::3], arguments[2::3], strict=True):
        project = pathlib.Path(name)
        ends = [in_a_process(project, space, place, Resume.NO)]
        if place:
            ends.append(in_a_process(project, space, "", Resume.YES))
        if ends != ([-signal.SIGKILL, 0] if place else [0]):
            sys.exit(f"{place}: ended with {ends}")


if __name__ == "__main__":
    main(sys.argv[1:])
