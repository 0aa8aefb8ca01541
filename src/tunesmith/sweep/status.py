"""How a sweep stands, read from its study by whoever asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tunesmith.config import overrides
from tunesmith.config.experiment import Experiment
from tunesmith.errors import StudyError
from tunesmith.progress import describe
from tunesmith.sweep import control
from tunesmith.sweep import study as studies
from tunesmith.sweep.collection import FINISHED, sweep_folder
from tunesmith.sweep.coordinator import name_of
from tunesmith.sweep.lease import KEY, is_live
from tunesmith.sweep.protocol import CHECKPOINTS
from tunesmith.sweep.trials import last_value

SEARCHING = "searching"
SHAPING = ("adapter.kind", "adapter.rank", "adapter.targets", "adapter.dora", "adapter.init")
STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "halved", TrialState.FAIL: "failed"}


@dataclass(frozen=True)
class TrialStatus:
    """One trial: `reached` is the percentage of its training at its last rung."""

    number: int
    state: str
    reached: int
    loss: float | None
    params: dict[str, Any]
    described: str


@dataclass(frozen=True)
class SweepStatus:
    """A sweep: who runs it if anybody, and its trials, the furthest and best first."""

    name: str
    state: str
    parent: str
    trials: list[TrialStatus]


def newest(experiment: Experiment) -> optuna.Study:
    """The newest sweep of an experiment; raises `StudyError` if there is none."""
    return studies.open_newest(experiment.name)


def status(experiment: Experiment) -> SweepStatus:
    """How the newest sweep of an experiment stands."""
    study = newest(experiment)
    trials = study.get_trials(deepcopy=False)
    begun = [trial for trial in trials if trial.state != TrialState.WAITING]
    ordered = sorted(begun, key=lambda t: (-(t.last_step or 0), _last(t) or float("inf"), t.number))
    rows = [
        TrialStatus(t.number, _state(t), t.last_step or 0, _last(t), dict(t.params), describe(t.params))
        for t in ordered
    ]
    return SweepStatus(study.study_name, _sweep_state(study), study.user_attrs.get("parent_run", ""), rows)


def _sweep_state(study: optuna.Study) -> str:
    attributes = study.user_attrs
    holder = attributes.get(KEY)
    if holder and is_live(holder):
        doing = "paused" if attributes.get("paused") else attributes.get("phase", "starting")
        return f"{doing}, by process {holder['pid']} on {holder['host']}"
    return "finished" if attributes.get(FINISHED) else "interrupted; go on with sweep --resume"


def _state(trial: FrozenTrial) -> str:
    if "infeasible" in trial.user_attrs:
        return "infeasible"
    if trial.state == TrialState.RUNNING:
        steps = len(trial.intermediate_values)
        return "waiting" if steps and trial.user_attrs.get("sent") == steps else "training"
    return STATES[trial.state]


def _last(trial: FrozenTrial) -> float | None:
    return last_value(trial) if trial.intermediate_values else None


def add_trial(
    experiment: Experiment, values: Mapping[str, Any], *, clone: int | None, warm: bool
) -> tuple[str, dict[str, Any]]:
    """Ask a running sweep for one more trial; returns the study's name and the trial's parameters."""
    study = newest(experiment)
    phase = study.user_attrs.get("phase", SEARCHING)
    if phase != SEARCHING:
        raise StudyError(f"{study.study_name}: is past its search ({phase}); --resume with a larger --trials adds more")
    trials = study.get_trials(deepcopy=False)
    known = next((trial for trial in trials if trial.params), None)
    if known is None:
        raise StudyError(f"{study.study_name}: has not begun its first trial yet; try again in a moment")
    fields = list(known.distributions)
    if clone is not None and not any(t.number == clone and t.params for t in trials):
        raise StudyError(f"--clone {clone}: no such trial in {study.study_name}")
    if warm and any(t.number == clone and "infeasible" in t.user_attrs for t in trials):
        raise StudyError(f"--warm: trial {clone} was infeasible, and its weights are not kept; leave --warm out")
    start = trials[clone].params if clone is not None else {name: overrides.get(experiment, name) for name in fields}
    for name, value in values.items():
        if name not in fields:
            raise StudyError(f"--set {name}: this sweep does not vary it; it varies {', '.join(fields)}")
        inner = known.distributions[name]
        if not inner._contains(inner.to_internal_repr(value)):
            raise StudyError(f"--set {name}={value}: outside the range of this sweep, {inner}")
    params = {**start, **values}
    if clone is not None and warm:
        require_start(study.study_name, clone, start, params, kind=overrides.apply(experiment, params).adapter.kind)
    control.ask(study, "add", params=params, **({"warm": clone} if warm else {}))
    return study.study_name, params


def require_start(sweep: str, clone: int, theirs: Mapping[str, Any], ours: Mapping[str, Any], *, kind: str) -> None:
    """Refuse to begin with a trial's weights where they do not fit, or where it is known here that none are saved."""
    other = next((name for name in SHAPING if theirs.get(name) != ours.get(name)), None)
    if other is not None:
        raise StudyError(f"--warm: needs the {other} of trial {clone}, {theirs.get(other)}; leave it so, or begin anew")
    if kind == "full":
        raise StudyError("--warm: a whole model (adapter.kind full) cannot begin with another trial's weights")
    folder = sweep_folder(sweep)  # absent where the sweep runs on another machine
    if folder.is_dir() and not any((folder / name_of(clone) / CHECKPOINTS).glob("step-*[0-9]")):
        raise StudyError(f"--warm: trial {clone} has saved no weights yet; try again in a moment, or leave --warm out")
