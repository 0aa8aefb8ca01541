"""What a sweep's own bookkeeping costs: the real search, study and MLflow runs over a worker that trains nothing.

    python -m benchmarks.orchestration [--trials 100 1000] [--repeats 3]

Each size is a sweep of its own in a new store (two SQLite files), in a fresh process. The worker answers every
segment at once with a loss drawn from the trial's number, so that halving goes on as usual; random proposals, since
a sampler's own arithmetic is Optuna's. Writes seconds a trial, in all and over the last tenth, with the range over
the repeats.
"""

import argparse
import os
import pathlib
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import yaml

from benchmarks.bench import ROOT, in_fresh_process, machine, write

STEPS = 20


@dataclass
class Idle:
    """A worker that is done as soon as it is asked."""

    clock: list[float]
    busy: bool = False

    def start(self) -> Any:
        """Ready at once."""
        from tunesmith.sweep.protocol import Ready

        return Ready("0" * 64, None, "nowhere", 1)

    def stop(self) -> None:
        """Nothing runs."""

    def interrupt(self) -> None:
        """Nothing runs."""

    def score(self, job: Any) -> Any:
        """A score of 0."""
        return scores(job.experiment.evaluation.primary)

    def calibrate(self, experiment: Any) -> Any:
        """No sharing."""
        from tunesmith.sweep.protocol import Sharing

        return Sharing(fuse=1, most=1, row_tokens=100.0)

    def train(self, segments: Any, sharing: Any, listener: Any) -> None:
        """End each segment, and those that come after it."""
        waiting = list(segments)
        while waiting:
            segment = waiting.pop(0)
            waiting += listener.on_end(self.ended(segment, listener))
            self.clock.append(time.perf_counter())

    def ended(self, segment: Any, listener: Any) -> Any:
        """The end of a segment, after the news of one step and one rung."""
        from tunesmith.records import TrainedRun
        from tunesmith.sweep.protocol import Begun, Done, Ended, Paused, Rung, StepMetrics

        step = max(1, round(STEPS * segment.until))
        loss = 1 + random.Random(segment.key).random() / segment.until
        listener.on_news(Begun(segment.key, STEPS))
        listener.on_news(StepMetrics(segment.key, {"train/loss": loss, "tune/loss": loss}, step))
        listener.on_news(Rung(segment.key, segment.until, step, loss))
        if segment.until < 1:
            return Ended(segment.key, Paused(segment.until, step, STEPS, loss, 100 * step, 1.0))
        metrics = {"tune/loss": loss, "train/tokens": 100.0 * step, "train/seconds": 1.0}
        curves = {"train/loss": ((step, loss),), "tune/loss": ((step, loss),)}
        trained = TrainedRun("", "0" * 64, metrics, curves, overfit=False)
        return Ended(segment.key, Done(scores(segment.job.experiment.evaluation.primary), trained))


def scores(primary: str) -> Any:
    """Scores of nothing."""
    from tunesmith.records import Scores

    return Scores({primary: 0.0}, {}, {}, "none")


def sweep(trials: int, pipe: Any) -> None:
    """Run one search here; send when each segment ended, in seconds from its begin."""
    from tunesmith.audit.checks import require_clean
    from tunesmith.config import Experiment, SearchSpace
    from tunesmith.progress import Progress
    from tunesmith.sweep.budget import Budget
    from tunesmith.sweep.coordinator import Coordinator
    from tunesmith.sweep.opening import Resume, open_sweep
    from tunesmith.sweep.search import Search

    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{place / 'mlflow.db'}"
        os.environ["TUNESMITH_STUDY_STORAGE"] = f"sqlite:///{place / 'optuna.db'}"
        tree = yaml.safe_load((ROOT / "search_spaces" / "smoke.yaml").read_text(encoding="utf-8"))
        path = place / "space.yaml"
        path.write_text(yaml.safe_dump({**tree, "sampler": {"kind": "random"}}), encoding="utf-8")
        experiment, space = Experiment.from_yaml(ROOT / "experiments" / "smoke.yaml"), SearchSpace.from_yaml(path)
        parent, study = open_sweep(experiment, space, require_clean(experiment), resume=Resume.NO)
        with Progress() as progress, Coordinator(experiment, space, study, parent, progress) as coordinator:
            progress.console.quiet = True
            clock: list[float] = []
            coordinator.crew.workers = [Idle(clock)]
            began = time.perf_counter()
            Search(coordinator, Budget(trials)).run()
            ended = time.perf_counter()
        parent.finish("FINISHED")
    pipe.send([*(at - began for at in clock), ended - began])


def measure(trials: int) -> dict[str, float]:
    """Milliseconds a trial of a search in a fresh process: in all, and over the last tenth of its segments."""
    *clock, whole = in_fresh_process(sweep, trials)
    last = max(1, len(clock) // 10)
    per_segment = (clock[-1] - clock[-1 - last]) / last
    return {"trial_ms": 1000 * whole / trials, "last_trial_ms": 1000 * per_segment * len(clock) / trials}


def text(results: dict[str, list[dict[str, float]]]) -> str:
    """The result as a Markdown table."""
    lines = ["| trials | ms a trial, median (range) | over the last tenth |", "|---:|---:|---:|"]
    for count, found in results.items():
        if found:
            columns = [[result[name] for result in found] for name in ("trial_ms", "last_trial_ms")]
            cells = [f"{statistics.median(c):.1f} ({min(c):.1f} to {max(c):.1f})" for c in columns]
            lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {str(count): [] for count in options.trials}
    for _ in range(options.repeats):
        for count in options.trials:
            results[str(count)].append(measure(count))
            print(count, results[str(count)][-1], flush=True)
            write("orchestration", text(results), {**machine(), "results": results})


if __name__ == "__main__":
    main()
