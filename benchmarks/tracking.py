"""What tracking adds to training: seconds in calls of MLflow's client against seconds in which a search's trials train.

    python -m benchmarks.tracking [--trials 4] [--repeats 3]

Each repeat is a search of the demo in a new store, with its own workers: base scores, calibration where this machine
has none, trials with their halving; no confirmation. A thread that writes to MLflow waits for nothing else, so the
seconds it takes are what tracking could hold a worker up for at most; the processor seconds among them are what it
takes from workers that share the cores. Both are given as shares of the seconds that trials trained, and apart from
them the calls that only begin and end runs.
"""

import argparse
import os
import pathlib
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from typing import Any

from benchmarks.bench import in_fresh_process, machine, project, write

SHARES = {"wall": "seconds in MLflow's client", "cpu": "processor seconds of these", "batches": "`log_batch` alone"}


class Metered:
    """An MLflow client that keeps count of what its calls take, by name: how many, seconds, processor seconds."""

    def __init__(self, client: Any) -> None:
        self.client, self.lock = client, threading.Lock()
        self.taken: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            began, cpu = time.perf_counter(), time.thread_time()
            try:
                return method(*arguments, **options)
            finally:
                spent = (1, time.perf_counter() - began, time.thread_time() - cpu)
                with self.lock:
                    self.taken[name] = [a + b for a, b in zip(self.taken[name], spent, strict=True)]

        return call


def search(trials: int, pipe: Any) -> None:
    """Run one search here; send what tracking took by call, and the seconds of all trainings."""
    from tunesmith.audit.checks import require_clean
    from tunesmith.config import Experiment, SearchSpace
    from tunesmith.progress import Progress
    from tunesmith.sweep.budget import Budget
    from tunesmith.sweep.coordinator import Coordinator
    from tunesmith.sweep.opening import Resume, open_sweep
    from tunesmith.sweep.search import Search
    from tunesmith.tracking import store

    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(project(pathlib.Path(folder)))
        for name in ("MLFLOW_TRACKING_URI", "TUNESMITH_STUDY_STORAGE"):
            os.environ.pop(name, None)
        os.chdir(folder)
        experiment = Experiment.from_yaml("experiments/support.yaml")
        space = SearchSpace.from_yaml("search_spaces/sft.yaml")
        metered = Metered(store.client())
        store.client = lambda: metered  # type: ignore[assignment]
        parent, study = open_sweep(experiment, space, require_clean(experiment), resume=Resume.NO)
        with Progress() as progress, Coordinator(experiment, space, study, parent, progress) as coordinator:
            coordinator.start()
            Search(coordinator, Budget(trials)).run()
        parent.finish("FINISHED")
        spent = [trial.user_attrs["spent"]["seconds"] for trial in study.trials() if "spent" in trial.user_attrs]
        os.chdir("/")
    pipe.send((dict(metered.taken), sum(spent)))


def measure(trials: int) -> dict[str, Any]:
    """Shares of the training time of one search in a fresh process."""
    calls, trained = in_fresh_process(search, trials)
    wall, cpu = (sum(call[n] for call in calls.values()) / trained for n in (1, 2))
    return {"trained_s": trained, "wall": wall, "cpu": cpu, "batches": calls["log_batch"][1] / trained, "calls": calls}


def table(results: list[dict[str, Any]]) -> str:
    """The result as a Markdown table."""
    lines = ["| | share of the training time, median (range) |", "|---|---:|"]
    for name, what in SHARES.items():
        values = [100 * result[name] for result in results]
        lines.append(f"| {what} | {statistics.median(values):.2f}% ({min(values):.2f} to {max(values):.2f}) |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for _ in range(options.repeats):
        results.append(measure(options.trials))
        trained = [round(result["trained_s"]) for result in results]
        head = f"# What tracking adds to training\n\n{machine()}\n\nSearches of {options.trials} trials of the demo, "
        head += f"which trained for {', '.join(map(str, trained))} s in all. Target: at most 1%.\n\n"
        write("tracking", head + table(results), {**machine(), "trials": options.trials, "results": results})


if __name__ == "__main__":
    main()
