"""How segments end, written down: in the study first, then on the trial's run."""

import shutil
from dataclasses import asdict

from optuna.trial import FrozenTrial, TrialState

from tunesmith.progress import describe
from tunesmith.sweep import costs, racing
from tunesmith.sweep import study as studies
from tunesmith.sweep.coordinator import Coordinator, name_of
from tunesmith.sweep.following import describe_end, log_training
from tunesmith.sweep.protocol import Done, Failed, Outcome, Paused, Refused
from tunesmith.sweep.trial_runs import end
from tunesmith.tracking.runs import Run
from tunesmith.tracking.scores import log_scores
from tunesmith.train.curves import marks


class Outcomes:
    """Records what came of the segments of a search."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator, self.study = coordinator, coordinator.study
        self.space, self.progress = coordinator.space, coordinator.progress
        self.evaluation = coordinator.experiment.evaluation

    def record(self, trial: FrozenTrial, outcome: Outcome, run: Run) -> None:
        """Record how a segment of a trial ended."""
        if isinstance(outcome, Paused):
            self._paused(trial, outcome, run)
        elif isinstance(outcome, Done):
            self._done(trial, outcome, run)
        elif isinstance(outcome, Failed):
            if outcome.spent is not None:
                self._remember_spent(trial, **asdict(outcome.spent))
            self.infeasible(trial, outcome.message, run)
        elif isinstance(outcome, Refused):
            self._refused(trial, outcome.reason, run)

    def _refused(self, trial: FrozenTrial, reason: str, run: Run) -> None:
        """End a trial that could not begin, which says nothing about its parameters."""
        self.study.remember(trial.number, refused=reason)
        self.study.fail(trial.number)
        end(run, trial)
        self.progress.note(f"{line(trial)} {reason}")

    def infeasible(self, trial: FrozenTrial, reason: str, run: Run) -> None:
        """End a trial because of its parameters; what it left on disk goes, unless another is to begin with it."""
        self.study.remember(trial.number, infeasible=reason)
        self.study.prune(trial.number)
        end(run, trial)
        self.progress.note(f"{line(trial)} {reason}")
        unended = self.study.trials(TrialState.RUNNING, TrialState.WAITING)
        if all(other.user_attrs.get("warm") != trial.number for other in unended):
            shutil.rmtree(self.coordinator.folder / name_of(trial.number), ignore_errors=True)

    def _paused(self, trial: FrozenTrial, paused: Paused, run: Run) -> None:
        """A trial reached a rung: it may be sent on once that is reported, so what speaks against it is noted first."""
        self._remember_spent(trial, tokens=paused.tokens, seconds=paused.seconds, steps=paused.steps)
        reason = costs.too_slow(self.space, paused.seconds, fraction=paused.fraction)
        if reason:
            self.study.remember(trial.number, infeasible=reason)
        self.study.report(trial.number, paused.tune_loss, fraction=paused.fraction)
        self.progress.note(f"{line(trial)} tune/loss {paused.tune_loss:.3f} after {paused.fraction:.0%}")
        if reason:
            self.infeasible(trial, reason, run)

    def _remember_spent(self, trial: FrozenTrial, **spent: float) -> None:
        """Note what a trial has taken so far; its worker lives, so the deaths before count no more."""
        self.study.remember(trial.number, spent=spent)
        if trial.user_attrs.get("deaths"):
            self.study.remember(trial.number, deaths=0)

    def _done(self, trial: FrozenTrial, done: Done, run: Run) -> None:
        """A trial was trained to its end, and scored as far as that made sense."""
        assert done.trained is not None  # noqa: S101 - a training was asked for
        metrics, loss = done.trained.metrics, done.trained.metrics["tune/loss"]
        self.study.report(trial.number, loss, fraction=1.0)
        steps = done.trained.curves["train/loss"][-1][0]
        taken = marks(steps, studies.fractions(self.space))  # a drifted space may not have all that were taken
        curve = [(round(100 * taken[at]), value) for at, value in done.trained.curves["tune/loss"] if at in taken]
        self.study.remember(trial.number, tune_curve=curve)
        self._remember_spent(trial, tokens=metrics["train/tokens"], seconds=metrics["train/seconds"], steps=steps)
        self._remember_latency(trial, done, run)
        log_training(run, done.trained)
        if done.beaten is None:
            how = self._scored(trial, done, run)
        else:
            how = racing.reason(done.beaten, trial.user_attrs["rival"])
            self.study.remember(trial.number, raced=how)
            run.metrics({"racing/items": done.beaten.seen, "racing/p_value": done.beaten.p_value})
            run.tags({"raced": how})
        self.study.complete(trial.number, loss)
        end(run, trial)
        self.progress.note(f"{line(trial)} {how}")

    def _scored(self, trial: FrozenTrial, done: Done, run: Run) -> str:
        assert done.trained is not None  # noqa: S101 - as above
        primary = self.evaluation.primary
        self.study.remember(trial.number, primary=done.scores.metrics[primary])
        if self.evaluation.racing:
            self.study.remember(trial.number, scored=racing.scored(done.scores, primary))
        log_scores(run, done.scores)
        return describe_end(done.scores, done.trained, primary)

    def _remember_latency(self, trial: FrozenTrial, done: Done, run: Run) -> None:
        """Note how long a token of a reply took; where that is a cost, the sampler learns it."""
        if done.latency is None:
            return
        run.metrics({costs.LATENCY: done.latency})
        if costs.LATENCY in self.space.costs:
            known = trial.user_attrs.get("costs", {})
            self.study.remember(trial.number, costs={**known, costs.LATENCY: done.latency})


def line(trial: FrozenTrial) -> str:
    """How a line about a trial begins."""
    return f"  trial {trial.number:>3}  {describe(trial.params)}:"
