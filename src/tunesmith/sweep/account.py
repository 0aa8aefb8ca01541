"""A finished search as its report reads it: from the study and the trials' runs."""

import re
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from tunesmith.sweep import proposals
from tunesmith.sweep import study as studies
from tunesmith.sweep.confirmation import Candidate
from tunesmith.sweep.coordinator import Coordinator
from tunesmith.sweep.results import ConfirmationRecord, State, SweepRecord, TrialRecord
from tunesmith.tracking import store

WATTS = 100.0  # a server processor of some cores under load, or a small part of a GPU; the report names it
CONFIRMED = re.compile(r"confirm-(\d+)-seed-(\d+)")
CURVE_POINTS = 200


def account(coordinator: Coordinator, placement: str, candidates: Sequence[Candidate]) -> SweepRecord:
    """The search and its confirmations, the winner first among the candidates."""
    study, experiment = coordinator.study, coordinator.experiment
    attributes = study.study.user_attrs
    return SweepRecord(
        experiment=experiment.name,
        run_id=coordinator.parent.id,
        primary_metric=experiment.evaluation.primary,
        base_primary=attributes.get("base_scored"),
        base_loss=attributes.get("base_loss"),
        trials=tuple(_trial(trial) for trial in study.trials(*studies.ENDED)),
        confirmations=tuple(_confirmations(attributes)),
        rungs=studies.rungs(coordinator.space),
        workers=len(coordinator.crew.workers),
        placement=placement,
        devices=len({worker.seat.device for worker in coordinator.crew.workers}),
        seconds=coordinator.clock.seconds,
        watts=WATTS,
        distributions=proposals.distributions(coordinator.space),
        winner=candidates[0].trial if candidates else None,
        costs=tuple(coordinator.space.costs),
    )


def _trial(trial: FrozenTrial) -> TrialRecord:
    known = trial.user_attrs
    losses = {**dict(known.get("tune_curve", [])), **trial.intermediate_values}
    spent = known.get("spent", {})
    reached = float(spent.get("fraction", max(losses, default=0) / 100))
    tokens = int(spent.get("tokens", 0))
    infeasible = known.get("infeasible", "")
    state: State = "complete" if trial.state == TrialState.COMPLETE else "infeasible" if infeasible else "halved"
    return TrialRecord(
        number=trial.number,
        params=trial.params,
        state=state,
        reason=infeasible,
        losses=losses,
        steps=int(spent.get("steps", 0)),
        curve=_curve(known["run_id"]) if "run_id" in known else (),
        tokens=tokens,
        full_tokens=round(tokens / reached) if reached else tokens,
        seconds=float(spent.get("seconds", 0.0)),
        primary=known.get("primary"),
        run_id=known.get("run_id", ""),
        source=known.get("source", "sampler"),
        costs=known.get("costs", {}),
        raced=known.get("raced", ""),
    )


def _curve(run_id: str) -> tuple[tuple[int, float], ...]:
    """The train loss by step, thinned where there are many."""
    points = sorted((point.step, point.value) for point in store.client().get_metric_history(run_id, "train/loss"))
    return tuple(points[:: max(1, len(points) // CURVE_POINTS)])


def _confirmations(attributes: dict[str, dict[str, float]]) -> list[ConfirmationRecord]:
    """Those that were trained to their end."""
    found = []
    for key, value in attributes.items():
        named = CONFIRMED.fullmatch(key)
        if named and "failed" not in value:
            trial, seed = int(named[1]), int(named[2])
            run_id = str(value["run_id"])
            found.append(ConfirmationRecord(trial, seed, run_id, value["loss"], value["primary"]))
    return found
