"""What a kill costs a sweep: the time from `--resume` to the first optimiser step.

    python -m benchmarks.resume [--kills 5] [--seed 1]

Runs the demo's sweep in a temporary folder with one worker, kills coordinator and worker (SIGKILL) at a random instant
while a trial trains, resumes, and so on. The first step is the first train loss that a resumed sweep logs, by its own
time; what a process takes that only imports the model's libraries and loads the base is measured beside each, and
taken off.
"""

import argparse
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from mlflow import MlflowClient

from benchmarks.bench import machine, timed, write
from benchmarks.bench import project as make_project

SWEEP = [
    "experiments/support.yaml",
    "--space",
    "search_spaces/sft.yaml",
    "--policy",
    "registry/support-bot.yaml",
    "--trials",
    "4",
    "--set",
    "data.search_rows=160",
]
LOAD = """
from tunesmith.config import Experiment
from tunesmith.sweep.workbench import Workbench
Workbench(Experiment.from_yaml("experiments/support.yaml")).base
"""
LOSS = "train/loss"
TARGET_S = 5.0


class Sweep:
    """A sweep in a folder of its own that can be killed and resumed."""

    def __init__(self, project: pathlib.Path) -> None:
        self.variables = {**make_project(project), "TUNESMITH_CPU_WORKERS": "1"}
        self.project = project
        self.client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Begin, or go on, in a process group of its own."""
        log = (self.project / "sweep.log").open("ab")
        command = [sys.executable, "-m", "tunesmith", "sweep", *SWEEP, *more]
        return subprocess.Popen(command, cwd=self.project, env=self.variables, stderr=log, start_new_session=True)

    def load_seconds(self) -> float:
        """What a process takes to import the model's libraries and load the base."""
        command = [sys.executable, "-c", LOAD]
        return timed(lambda: subprocess.run(command, cwd=self.project, env=self.variables, check=True))

    def times(self) -> list[float]:
        """When each train loss of the trials was logged, in UNIX time."""
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        runs = self.client.search_runs(experiments, "tags.`tunesmith.kind` = 'trial'")
        histories = [self.client.get_metric_history(run.info.run_id, LOSS) for run in runs]
        return [point.timestamp / 1000 for points in histories for point in points]

    def first_step(self, after: float, process: subprocess.Popen[bytes]) -> float:
        """Seconds from `after` (UNIX time) to the first step logged since; waits for it."""
        while process.poll() is None:
            since = [when for when in self.times() if when > after]
            if since:
                return min(since) - after
            time.sleep(0.2)
        raise RuntimeError((self.project / "sweep.log").read_text()[-2000:])


def main() -> int:
    """Kill and resume, write what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng, result = random.Random(options.seed), {**machine(), "kills": options.kills}
    waits: list[float] = []
    loads: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        sweep = Sweep(pathlib.Path(folder))
        begun = time.time()
        process = sweep.start()
        sweep.first_step(begun, process)
        for _ in range(options.kills):
            time.sleep(rng.uniform(25, 45))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            loads.append(sweep.load_seconds())
            begun = time.time()
            process = sweep.start("--resume")
            waits.append(sweep.first_step(begun, process))
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    own = [wait - load for wait, load in zip(waits, loads, strict=True)]
    result |= {"first_step_s": waits, "load_s": loads, "without_load_s": own}
    text = (
        f"first step after --resume: median {statistics.median(waits):.1f} s ({min(waits):.1f} to {max(waits):.1f}); "
        f"loading the base takes {statistics.median(loads):.1f} s of that; without {statistics.median(own):.1f} s "
        f"({min(own):.1f} to {max(own):.1f}, goal {TARGET_S:g})\n"
    )
    write(f"{result['date'][:10]}-resume", text, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
