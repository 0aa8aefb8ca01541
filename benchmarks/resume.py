"""What a kill costs a sweep: the time from `--resume` to the first optimiser step, and the work done twice.

    python -m benchmarks.resume [--kills 5] [--seed 1]

Runs the demo's sweep in a temporary folder with one worker, kills coordinator and worker (SIGKILL) at a random instant
while a trial trains, resumes, and so on. The sweep is the command itself, in a process that also writes down when its
coordinator heard of which optimiser step. The first step is the first that a resumed sweep does; those that had been
done before the kill, but after the last checkpoint, are repeated. What a process takes that only imports the model's
libraries and loads the base is measured beside each, and taken off.
"""

import argparse
import itertools
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks.bench import ROOT, machine, timed, write
from benchmarks.bench import project as make_project
from benchmarks.heard_steps import FILE

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
TARGET_S = 5.0

Heard = tuple[float, str, int]
"""When, in UNIX time, which training had done which step."""


class Sweep:
    """A sweep in a folder of its own that can be killed and resumed."""

    def __init__(self, project: pathlib.Path) -> None:
        self.project, self.news = project, project / "news"
        self.variables = {**make_project(project), "TUNESMITH_CPU_WORKERS": "1", FILE: str(self.news)}
        self.variables["PYTHONPATH"] += f"{os.pathsep}{ROOT}"

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Begin, or go on, in a process group of its own."""
        log = (self.project / "sweep.log").open("ab")
        command = [sys.executable, "-m", "benchmarks.heard_steps", "sweep", *SWEEP, *more]
        return subprocess.Popen(command, cwd=self.project, env=self.variables, stderr=log, start_new_session=True)

    def load_seconds(self) -> float:
        """What a process takes to import the model's libraries and load the base."""
        command = [sys.executable, "-c", LOAD]
        return timed(lambda: subprocess.run(command, cwd=self.project, env=self.variables, check=True))

    def heard(self) -> list[Heard]:
        """All steps so far, in the order in which they were done."""
        lines = self.news.read_text().splitlines() if self.news.is_file() else []
        return [(float(when), key, int(step)) for when, key, step in map(str.split, lines)]

    def first_step(self, known: int, process: subprocess.Popen[bytes]) -> float:
        """When the first step was done beyond the `known` first ones; waits for it."""
        while process.poll() is None:
            heard = self.heard()
            if len(heard) > known:
                return heard[known][0]
            time.sleep(0.1)
        raise RuntimeError((self.project / "sweep.log").read_text()[-2000:])


def repeated_seconds(heard: Sequence[Heard]) -> float:
    """The time of steps that had been done before: each counts as its training's median step."""
    steps: dict[str, list[tuple[float, int]]] = {}
    for when, key, step in heard:
        steps.setdefault(key, []).append((when, step))
    seconds = 0.0
    for own in steps.values():
        took = [after - before for (before, n), (after, m) in itertools.pairwise(own) if m == n + 1]
        repeated = len(own) - len({step for _, step in own})
        seconds += repeated * statistics.median(took) if repeated else 0.0
    return seconds


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
        process = sweep.start()
        sweep.first_step(0, process)
        for _ in range(options.kills):
            time.sleep(rng.uniform(25, 45))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            loads.append(sweep.load_seconds())
            known, begun = len(sweep.heard()), time.time()
            process = sweep.start("--resume")
            waits.append(sweep.first_step(known, process) - begun)
        time.sleep(rng.uniform(25, 45))
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        repeated = repeated_seconds(sweep.heard()) / options.kills
    own = [wait - load for wait, load in zip(waits, loads, strict=True)]
    result |= {"first_step_s": waits, "load_s": loads, "without_load_s": own, "repeated_s_a_kill": repeated}
    text = (
        f"first step after --resume: median {statistics.median(waits):.1f} s ({min(waits):.1f} to {max(waits):.1f}); "
        f"loading the base takes {statistics.median(loads):.1f} s of that; without {statistics.median(own):.1f} s "
        f"({min(own):.1f} to {max(own):.1f}, goal {TARGET_S:g}); steps done twice: {repeated:.1f} s a kill on average\n"
    )
    write(f"{result['date'][:10]}-resume", text, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
