"""The MLflow runs of a search's trials."""

from collections.abc import Iterable
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tunesmith.config import overrides
from tunesmith.sweep.coordinator import Coordinator, name_of
from tunesmith.tracking import resuming
from tunesmith.tracking.command import run_command
from tunesmith.tracking.runs import Run


class TrialRuns:
    """One run for each trial, children of the sweep's."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.known: dict[int, Run] = {}

    def of(self, trial: FrozenTrial) -> Run:
        """The trial's run: the one it has, taken up again, or a new one."""
        if trial.number not in self.known:
            known = trial.user_attrs.get("run_id")
            self.known[trial.number] = resuming.take_up(known) if known else self._new(trial)
        return self.known[trial.number]

    def _new(self, trial: FrozenTrial) -> Run:
        experiment = overrides.apply(self.coordinator.experiment, trial.params)
        tags = {"command": run_command(experiment), "trial": trial.number, **origin(trial)}
        run = self.coordinator.child(name_of(trial.number), kind="trial", tags=tags)
        run.params(trial.params)
        run.json(experiment.tree(), "experiment.json")
        self.coordinator.study.remember(trial.number, run_id=run.id)
        return run


def end_of(trial: FrozenTrial) -> tuple[str, str]:
    """With what status, and for what reason, the run of a trial ends that has ended in the study."""
    if trial.state == TrialState.COMPLETE:
        return "FINISHED", ""
    for failure in ("infeasible", "refused"):
        if failure in trial.user_attrs:
            return "FAILED", trial.user_attrs[failure]
    return "KILLED", f"halved: others were better after {max(trial.intermediate_values, default=0)}% of the steps"


def ends(trials: Iterable[FrozenTrial]) -> dict[str, tuple[str, str]]:
    """How runs have to end, by run, as the study has it; an early one does not know why a trial could not begin."""
    ended = [trial for trial in trials if trial.state.is_finished() and "run_id" in trial.user_attrs]
    told = [trial for trial in ended if trial.state != TrialState.FAIL or "refused" in trial.user_attrs]
    return {trial.user_attrs["run_id"]: end_of(trial) for trial in told}


def end(run: Run, trial: FrozenTrial) -> None:
    """End the run of a trial that has ended in the study."""
    status, reason = end_of(trial)
    run.finish(status, reason=reason)


def origin(trial: FrozenTrial) -> dict[str, Any]:
    """Where a trial's parameters come from, and with which trial's weights it begins, if any."""
    known = {key: trial.user_attrs[key] for key in ("source", "warm") if key in trial.user_attrs}
    return {"source": "sampler", **known}
