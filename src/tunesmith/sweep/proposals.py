"""What to try next: a function of the trials so far. Pure but for the sampler's own arithmetic."""

import itertools
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

    The sampler sees trials that wait on a rung as pruned there: by what they reached, although they may go
    on. Trials in training without a value yet count as poor ones, so that the next is not the same again
    (the constant liar). Parameters that made a training fail count as the worst.
    """
    known = optuna.create_study(sampler=sampler(space, seed=seed), direction="minimize")
    for trial in trials:
        if trial.state in {TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING}:
            known.add_trial(_as_seen(trial))
    return dict(known.ask(distributions(space)).params)


def _as_seen(trial: FrozenTrial) -> FrozenTrial:
    waits = trial.state == TrialState.RUNNING and trial.intermediate_values
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if waits else trial.state,
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
    )


def sampler(space: SearchSpace, *, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler that the space names."""
    startup = max(2, len(grid(space)))
    if space.sampler.kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
