"""The coordinator: the one writer of a sweep's study and run tree, and its workers' only voice."""

import pathlib
import threading
from typing import Any

from tunesmith.config import overrides
from tunesmith.config.experiment import Experiment
from tunesmith.config.space import SearchSpace
from tunesmith.data.dataset import load_dataset, training_rows
from tunesmith.progress import Progress, plural
from tunesmith.records import Scores
from tunesmith.sweep.clock import Clock
from tunesmith.sweep.collection import mark_in_use, sweep_folder
from tunesmith.sweep.control import Desk, Request
from tunesmith.sweep.crew import Crew, persistent, seats
from tunesmith.sweep.executors import LocalWorker
from tunesmith.sweep.lease import Lease
from tunesmith.sweep.protocol import Items, Job, Ready, Rival, Segment, Sharing
from tunesmith.sweep.study import SweepStudy
from tunesmith.tracking import resuming, runs
from tunesmith.tracking.datasets import log_dataset
from tunesmith.tracking.runs import Killed, Run
from tunesmith.tracking.scores import log_scores_of

SHARING = "sharing"


class Coordinator:
    """What search, confirmation and scoring share: experiment, study, workers, run tree.

    A context manager: the study is this process's, and the workers end with the block. Each worker is
    driven by a thread; `lock` guards study and run tree.
    """

    def __init__(
        self, experiment: Experiment, space: SearchSpace, study: SweepStudy, parent: Run, progress: Progress
    ) -> None:
        self.experiment = overrides.apply(experiment, {"data.train_rows": experiment.data.search_rows})
        self.space, self.study, self.parent, self.progress = space, study, parent, progress
        self.folder = sweep_folder(study.study.study_name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.clock = Clock(study.study)
        self.lease = Lease(study.study, also=self.clock.note)
        self.desk = Desk(study.study, self.heed, progress.note)
        self.paused = False
        self.crew = Crew(self.experiment, self.folder, seats(self.experiment.model))
        self.dataset = load_dataset(self.experiment)
        self.left_runs: dict[tuple[str, str], resuming.Left] = {}
        self.lock = threading.Condition()

    def __enter__(self) -> "Coordinator":
        self.lease.__enter__()
        self.study.known.guard = self.lease.check
        self.left_runs = resuming.left_by(self.parent)
        self.in_use = mark_in_use(self.folder)
        self.desk.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.desk.__exit__(*error)
        self.crew.stop()
        self.in_use.release()
        self.lease.__exit__(*error)

    def heed(self, request: Request) -> None:
        """Do what another terminal asks for."""
        if request["kind"] == "add":
            with self.lock:
                self.study.add(request["params"], warm=request.get("warm"))
        elif request["kind"] == "stop":
            self.progress.note("stopping: asked to by tunesmith study stop")
            self.crew.stop()
        else:
            self.paused = request["kind"] == "pause"
            self.study.study.set_user_attr("paused", self.paused)
            self.progress.note("pausing, asked to by tunesmith study pause" if self.paused else "going on")
            if self.paused:
                self.crew.interrupt()
        with self.lock:
            self.lock.notify_all()

    def wait_while_paused(self) -> None:
        """Return when the sweep may go on; raises `Killed` if it is stopped instead."""
        with self.lock:
            while self.paused and not self.crew.stopping:
                self.lock.wait(timeout=1)
        if self.crew.stopping:
            raise Killed("the sweep was stopped")

    def enter(self, phase: str) -> None:
        """Note what the sweep does now, if it is still this process's."""
        self.lease.check()
        self.study.study.set_user_attr("phase", phase)

    def start(self) -> Ready:
        """Start the workers and log what every run of this sweep shares."""
        ready = self.crew.start()
        workers = len(self.crew.workers)
        self.progress.note(f"{plural(workers, 'worker')} with {self.experiment.model.base} on {ready.placement}")
        shared = {"base_sha256": ready.base_sha256, "placement": ready.placement, "threads": ready.threads}
        mine = {"data_sha256": self.dataset.digest, "seed": self.experiment.seed, "workers": workers}
        self.parent.tags({**shared, **mine, **runs.provenance()})
        log_dataset(self.parent, training_rows(self.dataset, self.experiment.data), context="training")
        log_dataset(self.parent, self.dataset.tune, context="tuning")
        return ready

    def child(self, name: str, *, kind: str, tags: dict[str, Any] | None = None) -> Run:
        """A new child run, or the one for the same thing that the study had not noted when the sweep was cut off."""
        left = self.left_runs.pop((kind, name), None)
        if left is not None and left.has(tags or {}):
            return resuming.take_up(left.run_id)
        return runs.create(self.experiment.name, name, kind=kind, parent=self.parent, tags=tags)

    def score(self, worker: LocalWorker, run: Run, *, items: Items, adapter: str | None) -> Scores:
        """Score the base or a saved adapter into a child run: as trials are, with tune loss; on the holdout, by suites.

        When the worker dies it is done again, in the same run; raises `OutcomeError` after three deaths.
        """
        tasks = tuple(self.experiment.evaluation.every) if items == "holdout" else ()
        rows = self.loss_rows if items == "trial" else None
        folder = str(self.folder / run.id)
        job = Job(self.experiment, items, folder, train=False, adapter=adapter, tasks=tasks, loss_rows=rows)
        with runs.recording(run):
            scores = persistent(lambda worker: worker.score(job))(worker)
            log_scores_of(run, scores, pathlib.Path(adapter) if adapter else None)
        return scores

    def segment(
        self,
        key: str,
        experiment: Experiment,
        *,
        items: Items,
        fractions: tuple[float, ...] = (1.0,),
        until: float = 1.0,
        start: str | None = None,
        rival: Rival | None = None,
    ) -> Segment:
        """A piece of a training of this sweep; a fresh one begins with the weights of the training `start`."""
        folder = str(self.folder / key)
        job = Job(experiment, items, folder, fractions=fractions, loss_rows=self.loss_rows, slots=True, rival=rival)
        return Segment(key, job, until, start=str(self.folder / start) if start else None)

    @property
    def loss_rows(self) -> int:
        """On how many tune rows a tune loss is measured."""
        return self.experiment.evaluation.trial_items // 2

    @property
    def sharing(self) -> Sharing | None:
        """How slots share passes in this sweep, once that was measured; a resumed sweep keeps it."""
        found = self.study.study.user_attrs.get(SHARING)
        if found is None:
            return None
        ratios = {int(size): ratio for size, ratio in found["ratios"].items()}
        return Sharing(found["fuse"], found["most"], found["row_tokens"], ratios)


def name_of(number: int) -> str:
    """The name of a trial's run and folder."""
    return f"trial-{number:03d}"


def number_of(key: str) -> int:
    """The number of the trial with this name."""
    return int(key.rpartition("-")[2])
