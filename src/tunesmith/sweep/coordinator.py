"""The coordinator: the one writer of the study and of the sweep's run tree."""

import pathlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from tunesmith.config import overrides
from tunesmith.config.experiment import Experiment
from tunesmith.config.space import SearchSpace
from tunesmith.data.dataset import load_dataset, training_rows
from tunesmith.errors import OutcomeError
from tunesmith.progress import Progress
from tunesmith.records import Scores, TrainedRun
from tunesmith.sweep import study as studies
from tunesmith.sweep.executors import LocalWorker, WorkerDied
from tunesmith.sweep.protocol import Begun, Done, Failed, Items, Job, Ready, Rung, StepMetrics, Stopped
from tunesmith.sweep.study import SweepStudy
from tunesmith.tracking import runs
from tunesmith.tracking.command import run_command
from tunesmith.tracking.datasets import log_dataset
from tunesmith.tracking.runs import Run


@dataclass(frozen=True)
class Candidate:
    """A confirmed trial: its parameters, its confirmation runs and their mean primary score."""

    trial: int
    params: dict[str, Any]
    runs: tuple[str, ...]
    primary: float
    loss: float


class Coordinator:
    """Runs a sweep's jobs on a worker and writes down what comes of them.

    A context manager: the worker ends with the block.
    """

    def __init__(self, experiment: Experiment, space: SearchSpace, parent: Run, progress: Progress) -> None:
        self.experiment = overrides.apply(experiment, {"data.train_rows": experiment.data.search_rows})
        self.space = space
        self.parent = parent
        self.progress = progress
        self.scratch = tempfile.TemporaryDirectory(prefix="sweep-", dir=runs.store.state_folder())
        self.folder = pathlib.Path(self.scratch.name)
        self.worker = LocalWorker(self.experiment, self.folder)
        self.dataset = load_dataset(self.experiment)

    def __enter__(self) -> "Coordinator":
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.stop()
        self.scratch.cleanup()

    def start(self) -> Ready:
        """Start the worker and log what every run of this sweep shares."""
        ready = self.worker.start()
        self.progress.note(f"model {self.experiment.model.base} on {ready.placement}")
        self.parent.tags(
            {
                "base_sha256": ready.base_sha256,
                "threads": ready.threads,
                "placement": ready.placement,
                "data_sha256": self.dataset.digest,
                "seed": self.experiment.seed,
                **runs.provenance(),
            }
        )
        log_dataset(self.parent, training_rows(self.dataset, self.experiment.data), context="training")
        log_dataset(self.parent, self.dataset.tune, context="tuning")
        return ready

    def score(self, name: str, *, kind: str, items: Items, adapter: str | None) -> tuple[Run, Scores]:
        """Score the base or a saved adapter as a child run."""
        run = runs.create(self.experiment.name, name, kind=kind, parent=self.parent)
        job = Job(self.experiment, items, str(self.folder / run.id), train=False, adapter=adapter)
        with runs.recording(run):
            result = self.worker.execute(job, on_step=lambda _: None, on_rung=lambda _: True)
            done = self._done(result)
            log_scores(run, done.scores)
        return run, done.scores

    def search(self, study: SweepStudy, trials: int) -> None:
        """Run trials until exactly `trials` of them have completed or were pruned."""
        while len(study.ended()) < trials:
            self.progress.stage("trial", len(study.ended()) + 1, trials)
            self._trial(study, study.ask())

    def _trial(self, study: SweepStudy, trial: Trial) -> None:
        experiment = overrides.apply(self.experiment, trial.params)
        run = runs.create(experiment.name, f"trial-{trial.number:03d}", kind="trial", parent=self.parent)
        trial.set_user_attr("run_id", run.id)
        run.params(trial.params)
        run.tags({"command": run_command(experiment), "trial": trial.number, **retry_tags(trial)})
        job = self._training_job(experiment, run, items="trial", fractions=studies.rungs(self.space))
        try:
            result = self.worker.execute(job, on_step=self._logger(run), on_rung=self._judge(trial, run))
        except WorkerDied as death:
            study.study.tell(trial, state=TrialState.FAIL)
            run.finish("FAILED", reason=str(death).splitlines()[0])
            self.progress.note(f"trial {trial.number}: {death}")
            if not study.retry(study.study.trials[trial.number]):
                raise OutcomeError(
                    f"trial {trial.number} lost its worker {studies.MAX_ATTEMPTS} times: {death}"
                ) from None
            return
        except BaseException:
            run.finish("KILLED", reason="the sweep was stopped")
            raise
        self._tell(study, trial, run, result)

    def _tell(self, study: SweepStudy, trial: Trial, run: Run, result: Done | Stopped | Failed) -> None:
        """Record how a trial ended, in the study first, then on its run."""
        if isinstance(result, Done) and result.trained is not None:
            log_training(run, result.trained)
            log_scores(run, result.scores)
            study.study.tell(trial, result.trained.metrics["tune/loss"])
            run.finish("FINISHED")
            primary = result.scores.metrics.get(self.experiment.evaluation.primary)
            self.progress.trial(trial.number, trial.params, result.trained.metrics["tune/loss"], primary)
        elif isinstance(result, Stopped):
            study.study.tell(trial, state=TrialState.PRUNED)
            run.finish("KILLED", reason="halved: other trials were better at this point")
            self.progress.halved(trial.number, trial.params, studies.last_value(study.study.trials[trial.number]))
        elif isinstance(result, Failed) and result.user_error:
            trial.set_user_attr("reason", result.message)
            study.study.tell(trial, state=TrialState.PRUNED)
            run.finish("FAILED", reason=result.message)
            self.progress.note(f"trial {trial.number} failed: {result.message}")
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
        count = self.space.confirm.seeds
        results: dict[int, list[dict[str, Any]]] = {trial.number: [] for trial in best}
        for index, trial in enumerate(best):
            for n in range(1, count + 1):
                self.progress.stage("confirmation", index * count + n, len(best) * count)
                results[trial.number].append(self._confirmation(study, trial, n))
        candidates = [self._candidate(trial, results[trial.number]) for trial in best]
        return sorted(candidates, key=lambda candidate: (-candidate.primary, candidate.loss))

    def _confirmation(self, study: SweepStudy, trial: FrozenTrial, n: int) -> dict[str, Any]:
        """One confirmation run, or its record if an interrupted sweep already has it."""
        key = f"confirm-{trial.number}-{n}"
        known: dict[str, Any] | None = study.study.user_attrs.get(key)
        if known is not None:
            return known
        experiment = overrides.apply(self.experiment, {**trial.params, "seed": fresh_seed(self.experiment.seed, n)})
        name = f"confirm-{trial.number:03d}-seed-{n}"
        run = runs.create(experiment.name, name, kind="confirmation", parent=self.parent)
        run.params({**trial.params, "seed": experiment.seed})
        run.tags({"command": run_command(experiment), "trial": trial.number})
        job = self._training_job(experiment, run, items="confirmation", fractions=(1.0,))
        with runs.recording(run):
            done = self._done(self.worker.execute(job, on_step=self._logger(run), on_rung=lambda _: True))
            assert done.trained is not None  # noqa: S101 - a training job was asked for
            log_training(run, done.trained)
            log_scores(run, done.scores)
            run.artifact(pathlib.Path(done.trained.adapter), "adapter")
        primary = done.scores.metrics[self.experiment.evaluation.primary]
        record = {"run_id": run.id, "primary": primary, "loss": done.trained.metrics["tune/loss"]}
        study.study.set_user_attr(key, record)
        self.progress.note(f"{name}: {self.experiment.evaluation.primary} {primary:.3f}")
        return record

    def _candidate(self, trial: FrozenTrial, confirmations: list[dict[str, Any]]) -> Candidate:
        ordered = sorted(confirmations, key=lambda record: (-record["primary"], record["loss"]))
        return Candidate(
            trial=trial.number,
            params=trial.params,
            runs=tuple(record["run_id"] for record in ordered),
            primary=sum(record["primary"] for record in ordered) / len(ordered),
            loss=sum(record["loss"] for record in ordered) / len(ordered),
        )

    def _training_job(self, experiment: Experiment, run: Run, *, items: Items, fractions: tuple[float, ...]) -> Job:
        loss_rows = self.experiment.evaluation.trial_items // 2
        return Job(experiment, items, str(self.folder / run.id), fractions=fractions, loss_rows=loss_rows)

    def _logger(self, run: Run) -> Callable[[Begun | StepMetrics], None]:
        def log(message: Begun | StepMetrics) -> None:
            if isinstance(message, Begun):
                self.progress.begin(message.steps)
                return
            run.metrics(message.values, step=message.step)
            self.progress.step(message.values, message.step)

        return log

    def _judge(self, trial: Trial, run: Run) -> Callable[[Rung], bool]:
        def judge(rung: Rung) -> bool:
            trial.report(rung.tune_loss, step=round(100 * rung.fraction))
            run.metrics({"tune/progress": rung.fraction}, step=rung.step)
            return rung.fraction >= 1 or not trial.should_prune()

        return judge

    @staticmethod
    def _done(result: Done | Stopped | Failed) -> Done:
        if isinstance(result, Done):
            return result
        raise OutcomeError(result.message if isinstance(result, Failed) else "the job was stopped")


def retry_tags(trial: Trial) -> dict[str, Any]:
    """Which trial this one repeats, if any."""
    return {"retry_of": trial.user_attrs["retry_of"]} if "retry_of" in trial.user_attrs else {}


def fresh_seed(seed: int, n: int) -> int:
    """The seed of the n-th confirmation: far from the sweep's own, equal for all trials."""
    return (seed + 1_000_003 * n) % 2**31


def log_training(run: Run, trained: TrainedRun) -> None:
    """Log the summary of a training."""
    run.metrics({name: value for name, value in trained.metrics.items() if name not in trained.curves})
    run.tags({"overfit": str(trained.overfit).lower(), "adapter_sha256": trained.adapter_sha256})


def log_scores(run: Run, scores: Scores) -> None:
    """Log scores, with every item's result as an artifact."""
    run.metrics(dict(scores.metrics))
    run.tags({"scores_digest": scores.digest})
    run.json({"digest": scores.digest, "samples": list(scores.samples)}, "evaluation/samples.json")
