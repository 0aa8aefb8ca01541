"""The coordinator: the one writer of the study and of the sweep's run tree."""

import pathlib
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from tunesmith.config import overrides
from tunesmith.config.experiment import Experiment
from tunesmith.config.space import SearchSpace
from tunesmith.data.dataset import load_dataset, training_rows
from tunesmith.errors import OutcomeError
from tunesmith.progress import Bar, Progress, describe
from tunesmith.records import Scores, TrainedRun
from tunesmith.sweep import study as studies
from tunesmith.sweep.executors import Crew, Listener, LocalWorker, Task, WorkerDied, seats
from tunesmith.sweep.protocol import Begun, Done, Failed, Items, Job, Ready, Rung, StepMetrics, Stopped
from tunesmith.sweep.study import SweepStudy
from tunesmith.tracking import runs, store
from tunesmith.tracking.command import run_command
from tunesmith.tracking.datasets import log_dataset
from tunesmith.tracking.runs import Run


@dataclass(frozen=True)
class Candidate:
    """A confirmed trial: its parameters, its confirmation runs (best first) and their mean scores."""

    trial: int
    params: dict[str, Any]
    runs: tuple[str, ...]
    primary: float
    loss: float


class Coordinator:
    """Runs a sweep's jobs on workers and writes down what comes of them.

    A context manager: the workers end with the block. Each worker is driven by a thread; `lock` guards
    the study.
    """

    def __init__(self, experiment: Experiment, space: SearchSpace, parent: Run, progress: Progress) -> None:
        self.experiment = overrides.apply(experiment, {"data.train_rows": experiment.data.search_rows})
        self.space = space
        self.parent = parent
        self.progress = progress
        self.scratch = tempfile.TemporaryDirectory(prefix="sweep-", dir=store.state_folder())
        self.folder = pathlib.Path(self.scratch.name)
        self.crew = Crew(self.experiment, self.folder, seats(self.experiment.model))
        self.dataset = load_dataset(self.experiment)
        self.lock = threading.Condition()
        self.running = 0

    def __enter__(self) -> "Coordinator":
        return self

    def __exit__(self, *_: object) -> None:
        self.crew.stop()
        self.scratch.cleanup()

    def start(self) -> Ready:
        """Start the workers and log what every run of this sweep shares."""
        ready = self.crew.start()
        workers = len(self.crew.workers)
        self.progress.note(f"{workers} workers with {self.experiment.model.base} on {ready.placement}")
        shared = {"base_sha256": ready.base_sha256, "placement": ready.placement, "threads": ready.threads}
        mine = {"data_sha256": self.dataset.digest, "seed": self.experiment.seed, "workers": workers}
        self.parent.tags({**shared, **mine, **runs.provenance()})
        log_dataset(self.parent, training_rows(self.dataset, self.experiment.data), context="training")
        log_dataset(self.parent, self.dataset.tune, context="tuning")
        return ready

    def child(self, name: str, *, kind: str, tags: dict[str, Any] | None = None) -> Run:
        """A new child run of the sweep."""
        return runs.create(self.experiment.name, name, kind=kind, parent=self.parent, tags=tags)

    def score(self, worker: LocalWorker, run: Run, *, items: Items, adapter: str | None) -> Scores:
        """Score the base or a saved adapter into a child run."""
        job = Job(self.experiment, items, str(self.folder / run.id), train=False, adapter=adapter)
        with runs.recording(run):
            done = self._done(worker.execute(job, Listener(lambda _: None, lambda _: True)))
            log_scores(run, done.scores)
        return done.scores

    def search(self, study: SweepStudy, trials: int) -> None:
        """Score the base, then run trials until exactly `trials` of them have completed or were pruned."""
        first: list[Task] = []
        if "base_scored" not in study.study.user_attrs:
            base = self.child("base", kind="base")
            first.append(lambda worker: self._score_base(worker, study, base))

        def take() -> Task | None:
            with self.lock:
                return first.pop() if first else self._next_trial(study, trials)

        self.crew.work(take)

    def _score_base(self, worker: LocalWorker, study: SweepStudy, run: Run) -> None:
        scores = self.score(worker, run, items="trial", adapter=None)
        primary = self.experiment.evaluation.primary
        self.progress.note(f"  base       {primary} {scores.metrics[primary]:.3f}")
        with self.lock:
            study.study.set_user_attr("base_scored", True)

    def _next_trial(self, study: SweepStudy, trials: int) -> Task | None:
        """The next trial, waiting while running ones may yet fail and need another; None when all have ended."""
        while len(study.ended()) + self.running >= trials:
            if len(study.ended()) >= trials or self.crew.stopping:
                return None
            self.lock.wait(timeout=1)
        trial = study.ask()
        self.running += 1
        return lambda worker: self._trial(worker, study, trial)

    def _trial(self, worker: LocalWorker, study: SweepStudy, trial: Trial) -> None:
        experiment = overrides.apply(self.experiment, trial.params)
        name = f"trial-{trial.number:03d}"
        tags = {"command": run_command(experiment), "trial": trial.number, **retry_tags(trial)}
        run = self.child(name, kind="trial", tags=tags)
        run.params(trial.params)
        run.json(experiment.tree(), "experiment.json")
        job = self._training_job(experiment, run, items="trial", fractions=studies.rungs(self.space))
        try:
            with self.progress.job(name) as bar:
                result = worker.execute(job, Listener(self._logger(run, bar), self._judge(trial, run)))
        except WorkerDied as death:
            self._worker_died(study, trial, run, death)
        else:
            with self.lock:
                self._tell(study, trial, run, result)
        finally:
            with self.lock:
                self.running -= 1
                self.lock.notify_all()

    def _worker_died(self, study: SweepStudy, trial: Trial, run: Run, death: WorkerDied) -> None:
        """Queue a trial that lost its worker once more; when the sweep itself ends its workers, close its run."""
        if self.crew.stopping:
            run.finish("KILLED", reason="the sweep was stopped")
            raise death
        with self.lock:
            study.study.tell(trial, state=TrialState.FAIL)
            again = study.retry(study.study.trials[trial.number])
        run.finish("FAILED", reason=str(death).splitlines()[0])
        self.progress.note(f"  trial {trial.number}: {death}")
        if not again:
            raise OutcomeError(f"trial {trial.number} lost its worker {studies.MAX_ATTEMPTS} times: {death}")

    def _tell(self, study: SweepStudy, trial: Trial, run: Run, result: Done | Stopped | Failed) -> None:
        """Record how a trial ended, in the study first, then on its run."""
        line = f"  trial {trial.number:>3}  {describe(trial.params)}:"
        if isinstance(result, Done) and result.trained is not None:
            loss = result.trained.metrics["tune/loss"]
            log_training(run, result.trained)
            log_scores(run, result.scores)
            study.study.tell(trial, loss)
            run.finish("FINISHED")
            primary = self.experiment.evaluation.primary
            self.progress.note(f"{line} tune/loss {loss:.3f}, {primary} {result.scores.metrics[primary]:.3f}")
        elif isinstance(result, Stopped):
            study.study.tell(trial, state=TrialState.PRUNED)
            run.finish("KILLED", reason="halved: other trials were better at this point")
            value = studies.last_value(study.study.trials[trial.number])
            self.progress.note(f"{line} tune/loss {value:.3f}, halved")
        elif isinstance(result, Failed) and result.user_error:
            study.study.tell(trial, state=TrialState.PRUNED)
            run.finish("FAILED", reason=result.message)
            self.progress.note(f"{line} {result.message}")
        elif isinstance(result, Failed):
            study.study.tell(trial, state=TrialState.FAIL)
            run.text(result.trace, "error.txt")
            run.finish("FAILED", reason=result.message)
            raise OutcomeError(f"trial {trial.number}: {result.message} (see error.txt of run {run.id})")

    def confirm(self, study: SweepStudy) -> list[Candidate]:
        """Train the best trials again from fresh seeds; best first by mean primary score."""
        best = study.ranking()[: self.space.confirm.top]
        if not best:
            raise OutcomeError("no trial reached its first rung; see the reasons on the trial runs")
        pairs = [(trial, n) for trial in best for n in range(1, self.space.confirm.seeds + 1)]
        self.progress.note(f"confirming {len(best)} trials on {self.space.confirm.seeds} fresh seeds")
        records = self.crew.each([self._confirmation(study, trial, n) for trial, n in pairs])
        candidates = []
        for trial in best:
            mine = [record for (owner, _), record in zip(pairs, records, strict=True) if owner is trial]
            candidates.append(candidate(trial, mine))
        return sorted(candidates, key=lambda candidate: (-candidate.primary, candidate.loss))

    def _confirmation(self, study: SweepStudy, trial: FrozenTrial, n: int) -> Callable[[LocalWorker], dict[str, Any]]:
        """The task of one confirmation run; an interrupted sweep may have its record already."""
        key = f"confirm-{trial.number:03d}-seed-{n}"
        known: dict[str, Any] | None = study.study.user_attrs.get(key)

        def confirm(worker: LocalWorker) -> dict[str, Any]:
            record = self._train_again(worker, key, trial, n)
            with self.lock:
                study.study.set_user_attr(key, record)
            return record

        return confirm if known is None else lambda _: known

    def _train_again(self, worker: LocalWorker, name: str, trial: FrozenTrial, n: int) -> dict[str, Any]:
        experiment = overrides.apply(self.experiment, {**trial.params, "seed": fresh_seed(self.experiment.seed, n)})
        tags = {"command": run_command(experiment), "trial": trial.number}
        run = self.child(name, kind="confirmation", tags=tags)
        run.params({**trial.params, "seed": experiment.seed})
        run.json(experiment.tree(), "experiment.json")
        job = self._training_job(experiment, run, items="confirmation", fractions=(1.0,))
        with runs.recording(run), self.progress.job(name) as bar:
            done = self._done(worker.execute(job, Listener(self._logger(run, bar), lambda _: True)))
            assert done.trained is not None  # noqa: S101 - a training job was asked for
            log_training(run, done.trained)
            log_scores(run, done.scores)
            run.artifact(pathlib.Path(done.trained.adapter), "adapter")
        primary, loss = done.scores.metrics[self.experiment.evaluation.primary], done.trained.metrics["tune/loss"]
        self.progress.note(f"  {name}: tune/loss {loss:.3f}, {self.experiment.evaluation.primary} {primary:.3f}")
        return {"run_id": run.id, "primary": primary, "loss": loss}

    def _training_job(self, experiment: Experiment, run: Run, *, items: Items, fractions: tuple[float, ...]) -> Job:
        loss_rows = self.experiment.evaluation.trial_items // 2
        folder = str(self.folder / run.id)
        return Job(experiment, items, folder, fractions=fractions, loss_rows=loss_rows, slots=True)

    @staticmethod
    def _logger(run: Run, bar: Bar) -> Callable[[Begun | StepMetrics], None]:
        def log(message: Begun | StepMetrics) -> None:
            if isinstance(message, Begun):
                bar.begin(message.steps)
                return
            run.metrics(message.values, step=message.step)
            bar.step(message.values, message.step)

        return log

    def _judge(self, trial: Trial, run: Run) -> Callable[[Rung], bool]:
        def judge(rung: Rung) -> bool:
            run.metrics({"tune/progress": rung.fraction}, step=rung.step)
            with self.lock:
                trial.report(rung.tune_loss, step=round(100 * rung.fraction))
                return rung.fraction >= 1 or not trial.should_prune()

        return judge

    @staticmethod
    def _done(result: Done | Stopped | Failed) -> Done:
        if isinstance(result, Done):
            return result
        raise OutcomeError(result.message if isinstance(result, Failed) else "the job was stopped")


def candidate(trial: FrozenTrial, confirmations: list[dict[str, Any]]) -> Candidate:
    """A trial with the means over its confirmations."""
    ordered = sorted(confirmations, key=lambda record: (-record["primary"], record["loss"]))
    count = len(ordered)
    return Candidate(
        trial=trial.number,
        params=trial.params,
        runs=tuple(record["run_id"] for record in ordered),
        primary=sum(record["primary"] for record in ordered) / count,
        loss=sum(record["loss"] for record in ordered) / count,
    )


def retry_tags(trial: Trial) -> dict[str, Any]:
    """Which trial this one repeats, if any."""
    return {"retry_of": trial.user_attrs["retry_of"]} if "retry_of" in trial.user_attrs else {}


def fresh_seed(seed: int, n: int) -> int:
    """The seed of the n-th confirmation: far from the sweep's own, equal for all trials."""
    return (seed + 1_000_003 * n) % 2**31


def log_training(run: Run, trained: TrainedRun) -> None:
    """Log the summary of a training."""
    run.metrics({name: value for name, value in trained.metrics.items() if name not in trained.curves})
    overfit = str(trained.overfit).lower()
    run.tags({"overfit": overfit, "adapter_sha256": trained.adapter_sha256, "engine": trained.engine})


def log_scores(run: Run, scores: Scores) -> None:
    """Log scores, with every item's result as an artifact."""
    run.metrics(dict(scores.metrics))
    run.tags({"scores_digest": scores.digest})
    run.json({"digest": scores.digest, "samples": list(scores.samples)}, "evaluation/samples.json")
