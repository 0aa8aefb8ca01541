"""Which parameters mattered, told from every trial's loss at the first rung, so that halved trials count alike."""

from collections.abc import Iterable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tunesmith.config.overrides import short_name
from tunesmith.sweep.results import SweepRecord, TrialRecord

LEAST = 4  # trials; below, nothing can be said
WANTED = 5  # trials in the best part, as Optuna's documentation of PED-ANOVA advises


def first_loss(record: SweepRecord, trial: TrialRecord) -> float | None:
    """A trial's tune loss at the first rung; None where it has none, or failed by a fault of the machine."""
    return None if trial.state == "failed" else trial.judged.get(record.percents[0])


def labels(names: Iterable[str]) -> dict[str, str]:
    """Short names of fields; the whole name where two would be the same."""
    names = list(names)
    short = [short_name(name) for name in names]
    return {name: brief if short.count(brief) == 1 else name for name, brief in zip(names, short, strict=True)}


def with_all_trials(record: SweepRecord) -> optuna.Study:
    """A study in memory in which every trial with a first-rung loss is complete with that loss.

    Optuna's plots and importances leave pruned trials out. Trials keep their numbers; the others are failed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    distributions = {name: covering(d, _values(record, name)) for name, d in record.distributions.items()}
    trials = {trial.number: trial for trial in record.trials}
    for number in range(max(trials, default=-1) + 1):
        study.add_trial(_frozen(record, trials.get(number), distributions))
    return study


def importances(record: SweepRecord) -> dict[str, float]:
    """How much each parameter decides whether a trial is among the best at the first rung; the sum is 1.

    PED-ANOVA (Watanabe et al., 2023, arXiv:2304.10255); the best are a tenth of the trials, or 5 where
    a tenth is fewer. Empty where fewer than 4 trials have a first-rung loss, or all have the same.
    """
    losses = [loss for trial in record.trials if (loss := first_loss(record, trial)) is not None]
    if len(losses) < LEAST or min(losses) == max(losses):
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=best_part(len(losses)))
    found = optuna.importance.get_param_importances(with_all_trials(record), evaluator=evaluator)
    return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))


def best_part(trials: int) -> float:
    """The share of the trials that counts as the best."""
    return min(0.5, max(0.1, WANTED / trials))


def covering(distribution: BaseDistribution, values: Iterable[Any]) -> BaseDistribution:
    """The distribution, widened where a value lies outside: a trial added by hand may leave the search space."""
    values = list(values)
    if isinstance(distribution, CategoricalDistribution):
        known = list(distribution.choices)
        return CategoricalDistribution([*known, *dict.fromkeys(value for value in values if value not in known)])
    if isinstance(distribution, FloatDistribution | IntDistribution):
        low, high = min([distribution.low, *values]), max([distribution.high, *values])
        if (low, high) != (distribution.low, distribution.high):
            return type(distribution)(low, high, log=distribution.log and low > 0)
    return distribution


def _values(record: SweepRecord, name: str) -> list[Any]:
    return [trial.params[name] for trial in record.trials if name in trial.params]


def _frozen(
    record: SweepRecord, trial: TrialRecord | None, distributions: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    loss = None if trial is None else first_loss(record, trial)
    if trial is None or loss is None:
        return optuna.trial.create_trial(state=TrialState.FAIL)
    name_of = labels(distributions)
    known = [name for name in distributions if name in trial.params]
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE,
        params={name_of[name]: trial.params[name] for name in known},
        distributions={name_of[name]: distributions[name] for name in known},
        value=loss,
    )
