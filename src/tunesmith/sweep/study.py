"""The Optuna study of a sweep: asked and told by the coordinator alone, kept in a database.

Every decision is a function of what the study records, so that a resumed sweep goes on as the
interrupted one would have.
"""

import datetime
import itertools
import os
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, Trial, TrialState

from tunesmith.config import overrides
from tunesmith.config.experiment import Experiment
from tunesmith.config.space import Choices, FloatRange, IntRange, SearchSpace
from tunesmith.data.digest import digest_of
from tunesmith.errors import StudyError
from tunesmith.tracking.store import project_root

MAX_ATTEMPTS = 3
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def storage_url() -> str:
    """`TUNESMITH_STUDY_STORAGE`, else an SQLite file in the project root."""
    return os.environ.get("TUNESMITH_STUDY_STORAGE") or f"sqlite:///{project_root() / 'optuna.db'}"


def distribution(bounds: FloatRange | IntRange | Choices) -> BaseDistribution:
    """A range of the search space in Optuna's terms."""
    if isinstance(bounds, FloatRange):
        return FloatDistribution(bounds.low, bounds.high, log=bounds.log)
    if isinstance(bounds, IntRange):
        return IntDistribution(bounds.low, bounds.high, log=bounds.log)
    return CategoricalDistribution(bounds.choices)


@dataclass
class SweepStudy:
    """An Optuna study with the search space it explores."""

    study: optuna.Study
    space: SearchSpace
    seed: int

    def ended(self) -> list[FrozenTrial]:
        """Trials that count: completed or pruned, in order."""
        return self.study.get_trials(deepcopy=False, states=ENDED)

    def ranking(self) -> list[FrozenTrial]:
        """Trials that count and have a value, best first: the further one got, then the lower its loss."""
        judged = [trial for trial in self.ended() if trial.intermediate_values]
        return sorted(judged, key=lambda trial: (-(trial.last_step or 0), last_value(trial), trial.number))

    def ask(self) -> Trial:
        """The next trial: of the queue (grid points, retries), else proposed by the sampler."""
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = self._sampler(self.seed + number)
        return self.study.ask({name: distribution(bounds) for name, bounds in self.space.params.items()})

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        if self.space.sampler.kind == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        startup = max(2, len(grid(self.space)))
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)

    def retry(self, trial: FrozenTrial) -> bool:
        """Queue a trial lost to a fault of the machine once more; False when its attempts are used up."""
        attempt = trial.user_attrs.get("attempt", 1)
        if attempt >= MAX_ATTEMPTS:
            return False
        attributes = {"retry_of": trial.number, "attempt": attempt + 1}
        self.study.enqueue_trial(trial.params, user_attrs=attributes)
        return True

    def recover(self) -> list[FrozenTrial]:
        """After an interruption: fail the trials left running and queue each exactly once; returns those."""
        lost = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in lost:
            self.study.tell(trial.number, state=TrialState.FAIL)
        trials = self.study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get("retry_of") for trial in trials}
        for trial in trials:
            if trial.state == TrialState.FAIL and trial.number not in retried:
                self.retry(trial)
        return lost


def last_value(trial: FrozenTrial) -> float:
    """The tune loss that a trial reported last."""
    return trial.intermediate_values[max(trial.intermediate_values)]


def grid(space: SearchSpace) -> list[dict[str, Any]]:
    """The points of the coarse grid, in order."""
    if space.coarse is None:
        return []
    names = list(space.coarse.params)
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*space.coarse.params.values())]


def fingerprint(experiment: Experiment, space: SearchSpace, *, data: str) -> dict[str, str]:
    """What must not change between an interrupted sweep and its resumption, as digests."""
    tree = experiment.tree()
    return {
        "experiment": digest_of(tree),
        "space": digest_of(space.tree()),
        "data": data,
        "model": digest_of(tree["model"]),
    }


def create(experiment: Experiment, space: SearchSpace, *, name: str, prints: dict[str, str]) -> SweepStudy:
    """Create a study with the grid in its queue."""
    study = optuna.create_study(study_name=name, storage=_storage(), direction="minimize", pruner=pruner(space))
    for key, value in prints.items():
        study.set_user_attr(f"{key}_sha256", value)
    for point in grid(space):
        fixed = {key: overrides.get(experiment, key) for key in space.params}
        study.enqueue_trial({**fixed, **point}, user_attrs={"grid": True})
    study.set_user_attr("created", datetime.datetime.now(datetime.UTC).isoformat())
    study.set_user_attr("experiment", experiment.name)  # last: marks the study as whole
    return SweepStudy(study, space, experiment.seed)


def load(experiment: Experiment, space: SearchSpace, *, prints: dict[str, str]) -> SweepStudy:
    """The newest sweep of this experiment, to resume; raises `StudyError` if it is another sweep's."""
    storage = _storage()
    known = [s for s in optuna.get_all_study_summaries(storage) if s.user_attrs.get("experiment") == experiment.name]
    if not known:
        raise StudyError(
            f"--resume: no sweep of {experiment.name} is recorded in {storage_url()}; start one without it"
        )
    newest = max(known, key=lambda summary: summary.user_attrs.get("created", ""))
    changed = [key for key, value in prints.items() if newest.user_attrs.get(f"{key}_sha256") != value]
    if changed:
        raise StudyError(
            f"--resume: changed since {newest.study_name} began: {', '.join(changed)}; undo that or start anew"
        )
    study = optuna.load_study(study_name=newest.study_name, storage=storage, pruner=pruner(space))
    return SweepStudy(study, space, experiment.seed)


def pruner(space: SearchSpace) -> optuna.pruners.BasePruner:
    """Successive halving over the percentage of a trial's own training."""
    if space.halving is None:
        return optuna.pruners.NopPruner()
    first = max(1, round(100 * space.halving.first_rung))
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=space.halving.reduction)


def rungs(space: SearchSpace) -> tuple[float, ...]:
    """The shares of its training at which a trial is judged, and the end."""
    fractions = []
    if space.halving is not None:
        fraction = space.halving.first_rung
        while fraction < 1:
            fractions.append(fraction)
            fraction *= space.halving.reduction
    return (*fractions, 1.0)


def _storage() -> optuna.storages.RDBStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = storage_url()
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite:") else {}
    return optuna.storages.RDBStorage(url, engine_kwargs=options)
