"""Confirmation: the best trials are trained again from fresh seeds, and one of them wins."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from tunesmith.config import overrides
from tunesmith.errors import OutcomeError, TrainingError
from tunesmith.progress import plural
from tunesmith.sweep.coordinator import Coordinator
from tunesmith.sweep.crew import MAX_DEATHS
from tunesmith.sweep.executors import LocalWorker, WorkerDied
from tunesmith.sweep.following import Follower, describe_end, log_adapter, log_training
from tunesmith.sweep.protocol import Done, Ended, Failed, Segment, Sharing
from tunesmith.tracking import resuming, runs
from tunesmith.tracking.command import run_command
from tunesmith.tracking.runs import Killed, Run
from tunesmith.tracking.scores import log_scores


@dataclass(frozen=True)
class Candidate:
    """A confirmed trial: its parameters, its confirmation runs (best first) and their mean scores.

    `score` is the mean primary metric turned so that more is better, `error` its standard error over seeds, `tokens`
    what one training costs.
    """

    trial: int
    params: dict[str, Any]
    runs: tuple[str, ...]
    score: float
    loss: float
    error: float = 0.0
    tokens: float = 0.0


def confirm(coordinator: Coordinator) -> list[Candidate]:
    """Train the best trials again from fresh seeds; the winner comes first.

    One whose training fails from any of them, as by a loss that is not finite, is no candidate. One that was among the
    best, and was trained again, before more trials were added stays one.
    """
    study, wanted = coordinator.study, coordinator.space.confirm
    seeds = range(1, wanted.seeds + 1)
    best = study.ranking()[: wanted.top]
    if not best:
        raise OutcomeError("no trial reached its first rung within the limits; see the reasons on the trial runs")
    coordinator.enter("confirming")
    coordinator.progress.note(f"confirming {plural(len(best), 'trial')} on {plural(wanted.seeds, 'fresh seed')}")
    known = study.study.user_attrs
    best += [t for t in study.ranking()[wanted.top :] if all(_key(t, n) in known for n in seeds)]
    pairs = [(trial, n) for trial in best for n in seeds]
    records = coordinator.crew.each([_task(coordinator, trial, n) for trial, n in pairs])
    candidates = []
    for trial in best:
        mine = [record for (owner, _), record in zip(pairs, records, strict=True) if owner is trial]
        if not any("failed" in record for record in mine):
            candidates.append(candidate(trial, mine))
    if not candidates:
        raise OutcomeError("no trial could be trained again from fresh seeds; see the reasons on the confirmation runs")
    return ranked(candidates)


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The winner first: of those within one standard error of the best mean, the one that trains the fewest tokens.

    (The one-standard-error rule of Breiman et al., 1984: what cannot be told from the best may as well be cheap.)
    """
    by_score = sorted(candidates, key=lambda candidate: (-candidate.score, candidate.loss))
    top = by_score[0]
    near = [candidate for candidate in by_score if candidate.score >= top.score - top.error]
    winner = min(near, key=lambda candidate: (candidate.tokens, by_score.index(candidate)))
    return [winner, *(candidate for candidate in by_score if candidate is not winner)]


def candidate(trial: FrozenTrial, confirmations: list[dict[str, Any]]) -> Candidate:
    """A trial with the means over its confirmations."""
    ordered = sorted(confirmations, key=lambda record: (-record["score"], record["loss"]))
    scores = [record["score"] for record in ordered]
    return Candidate(
        trial=trial.number,
        params=trial.params,
        runs=tuple(record["run_id"] for record in ordered),
        score=statistics.fmean(scores),
        loss=statistics.fmean(record["loss"] for record in ordered),
        error=statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0,
        tokens=statistics.fmean(record["tokens"] for record in ordered),
    )


def fresh_seed(seed: int, n: int) -> int:
    """The seed of the n-th confirmation: far from the sweep's own, equal for all trials."""
    return (seed + 1_000_003 * n) % 2**31


def _key(trial: FrozenTrial, n: int) -> str:
    return f"confirm-{trial.number:03d}-seed-{n}"


def _task(coordinator: Coordinator, trial: FrozenTrial, n: int) -> Callable[[LocalWorker], dict[str, Any]]:
    """The task of one confirmation run; an interrupted sweep may have its record already."""
    key = _key(trial, n)
    known: dict[str, Any] | None = coordinator.study.study.user_attrs.get(key)

    def task(worker: LocalWorker) -> dict[str, Any]:
        record = Confirmation(coordinator, key, trial, n).train(worker)
        with coordinator.lock:
            coordinator.lease.check()
            coordinator.study.study.set_user_attr(key, record)
        return record

    return task if known is None else lambda _: known


class Confirmation(Follower):
    """One training of a trial from a fresh seed, alone, to its end."""

    def __init__(self, coordinator: Coordinator, key: str, trial: FrozenTrial, n: int) -> None:
        super().__init__(coordinator.progress)
        self.coordinator, self.key, self.trial = coordinator, key, trial
        seed = fresh_seed(coordinator.experiment.seed, n)
        self.experiment = overrides.apply(coordinator.experiment, {**trial.params, "seed": seed})
        self.outcome: Done | Failed | None = None

    def train(self, worker: LocalWorker) -> dict[str, Any]:
        """Have it trained and scored; goes on from its checkpoint after the worker died, twice at most.

        Of a training that failed the record has no scores but the reason.
        """
        run = self._run()
        try:
            with runs.recording(run):
                outcome = self._outcome(worker, run)
                if isinstance(outcome, Failed):
                    raise TrainingError(outcome.message)
                return self._record(run, outcome)
        except TrainingError as error:
            self.progress.note(f"  {self.key}: {error}; trial {self.trial.number} cannot win")
            return {"run_id": run.id, "failed": str(error)}

    def _outcome(self, worker: LocalWorker, run: Run) -> Done | Failed:
        deaths = 0
        while self.outcome is None:
            self.coordinator.wait_while_paused()
            try:
                self._attempt(worker, run)
            except WorkerDied as death:
                deaths += 1
                if deaths == MAX_DEATHS:
                    raise OutcomeError(f"{self.key} lost its worker {deaths} times: {death}") from None
            except Killed:
                if self.coordinator.crew.stopping:
                    raise
        return self.outcome

    def _attempt(self, worker: LocalWorker, run: Run) -> None:
        segment = self.coordinator.segment(self.key, self.experiment, items="confirmation")
        self.follow(self.key, run)
        try:
            worker.train((segment,), self._sharing, self)
        finally:
            self.leave_all()

    @property
    def _sharing(self) -> Sharing:
        sharing = self.coordinator.sharing
        assert sharing is not None  # noqa: S101 - the search has measured it
        return sharing

    def _run(self) -> Run:
        """The run of this confirmation: new, or the one that an interruption left."""
        attribute = f"{self.key}-run"
        known = self.coordinator.study.study.user_attrs.get(attribute)
        if known:
            return resuming.take_up(known)
        tags = {"command": run_command(self.experiment), "trial": self.trial.number}
        run = self.coordinator.child(self.key, kind="confirmation", tags=tags)
        run.params({**self.trial.params, "seed": self.experiment.seed})
        run.json(self.experiment.tree(), "experiment.json")
        with self.coordinator.lock:
            self.coordinator.study.study.set_user_attr(attribute, run.id)
        return run

    def on_end(self, ended: Ended) -> tuple[Segment, ...]:
        """Keep what came of it."""
        self.coordinator.lease.check()
        assert isinstance(ended.outcome, Done | Failed)  # noqa: S101 - it was to train to the end
        self.outcome = ended.outcome
        return ()

    def _record(self, run: Run, outcome: Done) -> dict[str, Any]:
        assert outcome.trained is not None  # noqa: S101 - a training was asked for
        scores, trained = outcome.scores, outcome.trained
        primary = self.experiment.evaluation.primary
        log_training(run, trained)
        log_scores(run, scores)
        log_adapter(run, trained)
        self.progress.note(f"  {self.key}: {describe_end(scores, trained, primary)}")
        metrics = trained.metrics
        return {
            "run_id": run.id,
            "primary": scores.metrics[primary],
            "score": scores.sign(primary) * scores.metrics[primary],
            "loss": metrics["tune/loss"],
            "tokens": metrics["train/tokens"],
        }
