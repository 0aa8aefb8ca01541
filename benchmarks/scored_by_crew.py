"""Score saved adapters as a sweep does, by workers that each hold the base: our side of `multiple_choice adapters`.

    python -m benchmarks.scored_by_crew FOLDER ...

Prints, as JSON, each adapter's accuracy on the demo's policy questions. It imports no PyTorch, as a sweep's
coordinator does not: the workers' process loads it meanwhile.
"""

import functools
import json
import pathlib
import sys
import tempfile

from tunesmith.config import Experiment
from tunesmith.config.overrides import apply
from tunesmith.data.tasks import load_items, load_tasks
from tunesmith.records import Row
from tunesmith.sweep.crew import Crew, seats
from tunesmith.sweep.executors import LocalWorker
from tunesmith.sweep.protocol import Job

TASK, SPLIT = "policy", "holdout"


def experiment() -> Experiment:
    """The demo, in float32 on any machine."""
    path = pathlib.Path(__file__).parents[1] / "experiments/support.yaml"
    return apply(Experiment.from_yaml(path), {"model.dtype": "float32"})


def questions() -> list[Row]:
    """What is asked."""
    tasks = load_tasks(experiment())
    return list(load_items({TASK: tasks[TASK]}, experiment(), SPLIT)[TASK])


def accuracies(adapters: list[str], folder: pathlib.Path) -> list[float]:
    """Each adapter's accuracy; the workers' logs go to `folder`."""
    demo = experiment()
    crew = Crew(demo, folder, seats(demo.model))
    crew.start()
    jobs = [Job(demo, SPLIT, str(folder), train=False, adapter=path, tasks=(TASK,)) for path in adapters]
    scores = crew.each([functools.partial(LocalWorker.score, job=job) for job in jobs])
    crew.stop()
    return [found.metrics[f"{SPLIT}/{TASK}/acc"] for found in scores]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(accuracies(sys.argv[1:], pathlib.Path(scratch))))
