"""What to try next: a function of the trials so far. Pure but for the sampler's own arithmetic."""

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from tunesmith.config.space import Choices, FloatRange, IntRange, SearchSpace
from tunesmith.sweep.costs import LATENCY

WARM_START = 10  # trials that a warm start needs: it learns from the best tenth
SEEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def distribution(bounds: FloatRange | IntRange | Choices) -> BaseDistribution:
    """A range of the search space in Optuna's terms."""
    if isinstance(bounds, FloatRange):
        return FloatDistribution(bounds.low, bounds.high, log=bounds.log)
    if isinstance(bounds, IntRange):
        return IntDistribution(bounds.low, bounds.high, log=bounds.log)
    return CategoricalDistribution(bounds.choices)


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Every range of the space in Optuna's terms, by field."""
    return {name: distribution(bounds) for name, bounds in space.params.items()}


def grid(space: SearchSpace) -> list[dict[str, Any]]:
    """The points of the coarse grid, in order."""
    if space.coarse is None:
        return []
    names = list(space.coarse.params)
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*space.coarse.params.values())]


def propose(trials: Sequence[FrozenTrial], space: SearchSpace, *, seed: int) -> dict[str, Any]:
    """Parameters of the next trial.

    TPE sees trials that wait on a rung as pruned there: by what they reached, although they may go
    on. Trials in training without a value yet count as poor ones, so that the next is not the same again
    (the constant liar). Parameters that made a training fail count as the worst, however well it began. Where
    costs are weighed too, all samplers see every trial by its first rung's loss and its costs (for TPE: Ozaki et
    al., 2022).
    """
    began = [trial for trial in trials if trial.state in SEEN] if space.sampler.kind != "random" else []
    whole = space.costs or space.sampler.kind in {"gp", "cmaes"}
    seen = _at_first_rung(began, space.costs) if whole else list(map(_where_it_stands, began))
    directions = ["minimize"] * (1 + len(space.costs))
    known = optuna.create_study(sampler=sampler(space, seen, seed=seed), directions=directions)
    known.add_trials(seen)
    return dict(known.ask(distributions(space)).params)


def _where_it_stands(trial: FrozenTrial) -> FrozenTrial:
    waits = trial.state == TrialState.RUNNING and trial.intermediate_values
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if waits else trial.state,
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values={} if "infeasible" in trial.user_attrs else trial.intermediate_values,
    )


def _at_first_rung(trials: Sequence[FrozenTrial], costs: Sequence[str]) -> list[FrozenTrial]:
    """Every trial complete with its first rung's loss and its costs, for samplers that read complete ones alone.

    One that has no loss yet, or is infeasible, counts as the worst so far. A latency that was not measured, since the
    trial was never scored, counts as the median of the others; before any was measured, as 0.
    """
    measured = [t.user_attrs["costs"][LATENCY] for t in trials if LATENCY in t.user_attrs.get("costs", {})]
    usual = {LATENCY: statistics.median(measured or [0.0])}
    losses = [None if "infeasible" in trial.user_attrs else first_loss(trial) for trial in trials]
    worst = max((loss for loss in losses if loss is not None), default=None)
    values = [worst if loss is None else loss for loss in losses]
    return [
        optuna.trial.create_trial(
            values=[value, *({**usual, **trial.user_attrs["costs"]}[name] for name in costs)],
            params=trial.params,
            distributions=trial.distributions,
        )
        for trial, value in zip(trials, values, strict=True)
        if value is not None and (not costs or "costs" in trial.user_attrs)
    ]


def _numbers_of(trial: FrozenTrial) -> FrozenTrial:
    """A complete trial without its categorical parameters."""
    kept = {n: d for n, d in trial.distributions.items() if not isinstance(d, CategoricalDistribution)}
    params = {name: trial.params[name] for name in kept}
    return optuna.trial.create_trial(value=trial.value, params=params, distributions=kept)


def first_loss(trial: FrozenTrial) -> float | None:
    """The tune loss at a trial's first rung."""
    values = trial.intermediate_values
    return values[min(values)] if values else None


def sampler(space: SearchSpace, seen: list[FrozenTrial], *, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler that the space names.

    CMA-ES keeps no state between proposals here: each is drawn from the distribution that a warm start on
    the trials so far gives (Nomura et al., 2021).
    """
    startup = max(2, len(grid(space)))
    match space.sampler.kind:
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        case "cmaes":
            startup = max(startup, WARM_START)
            source = list(map(_numbers_of, seen)) if len(seen) >= startup else None
            return optuna.samplers.CmaEsSampler(
                seed=seed, n_startup_trials=startup, warn_independent_sampling=False, source_trials=source
            )
        case "tpe":
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
