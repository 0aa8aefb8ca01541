"""The Optuna study of a sweep: asked and told by the coordinator alone, kept in a database.

Every decision is a function of what the study records, so that a resumed sweep goes on as the
interrupted one would have.
"""

import datetime
import itertools
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from tunesmith.config import overrides
from tunesmith.config.experiment import Experiment
from tunesmith.config.space import Halving, SearchSpace
from tunesmith.data.digest import digest_of
from tunesmith.errors import StudyError
from tunesmith.sweep import drift, proposals, storage
from tunesmith.sweep.earlier import Earlier
from tunesmith.sweep.lease import require_free
from tunesmith.sweep.rungs import Ladder, Standings
from tunesmith.sweep.trials import Trials, last_value

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


class SweepStudy:
    """An Optuna study with the search space it explores, and what else a sweep must remember.

    A trial that waits on a rung is RUNNING in Optuna's terms. Its attribute `sent` is the rung (counted from 1)
    it was sent to, `order` counts the sendings of the whole sweep.
    """

    def __init__(self, study: optuna.Study, space: SearchSpace, seed: int) -> None:
        self.study, self.space, self.seed = study, space, seed
        self.known = Trials(study)

    @property
    def created(self) -> datetime.datetime:
        """When the sweep began."""
        return datetime.datetime.fromisoformat(self.study.user_attrs["created"])

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Trials in order, of these states or of all; they are not to be changed."""
        return self.known.of(*states) if states else self.known.all

    def begun(self) -> int:
        """How many trials count already or will."""
        return self.known.count(*ENDED, TrialState.RUNNING)

    def reached(self, target: float | None) -> bool:
        """Whether a trial has come to its end with a tune loss that suffices."""
        return target is not None and any(trial.value <= target for trial in self.trials(TrialState.COMPLETE))

    def ranking(self, most: int | None = None) -> list[FrozenTrial]:
        """Trials that have a value, best first: the further one got, then the lower its loss."""
        return self.known.ranking(most)

    @property
    def standings(self) -> Standings:
        """How far each trial has got that is judged by the rungs."""
        return self.known.standings

    def ask(self, *, added: bool = False) -> FrozenTrial:
        """The next trial, sent to its first rung: of the queue (grid points, earlier winners, added ones), else new.

        With `added`, the next that a person has asked for; there must be one.
        """
        distributions = proposals.distributions(self.space)
        queue = self.queued_by_people() if added else self.trials(TrialState.WAITING)
        if not queue:
            params = proposals.propose(self.known.all, self.space, seed=self.seed + len(self.known.all))
            return self.known.create(params, distributions, sent=1, order=self.known.sendings + 1)
        number = queue[0].number
        self.known.begin(number)
        self._complete(number)
        self.send(number, 1)
        return self.known.all[number]

    def _complete(self, number: int) -> None:
        """Give a trial of the queue, all of whose values are fixed, those that it has not been given yet."""
        self.study.sampler = optuna.samplers.RandomSampler(seed=self.seed)  # never asked
        trial = self.known.read_again(number)
        missing = {n: d for n, d in proposals.distributions(self.space).items() if n not in trial.params}
        for name, bounds in missing.items():
            Trial(self.study, trial._trial_id)._suggest(name, bounds)  # what Optuna's `ask` does with a queued trial
        if missing:
            self.known.read_again(number)

    def remember(self, number: int, **values: Any) -> None:
        """Set attributes of a running trial."""
        self.known.remember(number, **values)

    def send(self, number: int, rung: int) -> None:
        """Note that a trial is sent to a rung."""
        self.remember(number, sent=rung, order=self.known.sendings + 1)

    def report(self, number: int, loss: float, *, fraction: float) -> None:
        """Record a trial's tune loss at a share of its training, and at rungs that fell together with it."""
        known = self.known.all[number].intermediate_values
        steps = [round(100 * rung) for rung in rungs(self.space) if rung <= fraction]
        self.known.report(number, {step: loss for step in steps if step not in known})

    def complete(self, number: int, loss: float) -> None:
        """A trial ran to its end, with this tune loss."""
        self.known.end(number, TrialState.COMPLETE, loss)

    def prune(self, number: int) -> None:
        """A trial ends before its time; its value is the last that it reached."""
        trial = self.known.all[number]
        self.known.end(number, TrialState.PRUNED, last_value(trial) if trial.intermediate_values else None)

    def fail(self, number: int) -> None:
        """A trial could not begin: it counts for nothing, neither in the budget nor with the sampler."""
        self.known.end(number, TrialState.FAIL, None)

    def add(self, params: dict[str, Any], *, warm: int | None = None) -> None:
        """Queue a trial that a person asks for; `warm` is the trial whose weights it begins with."""
        details = {"source": "added", **({} if warm is None else {"warm": warm})}
        self.study.enqueue_trial(params, user_attrs=details)
        self.known.take_in()

    def begin_with(self, winners: Sequence[Earlier]) -> None:
        """Queue what won earlier sweeps, after the grid; what was queued before this was cut off stays."""
        queued = {trial.user_attrs.get("source") for trial in self.trials(TrialState.WAITING)}
        for winner in winners:
            source = f"winner of sweep {winner.run_id}"
            if source not in queued:
                self.study.enqueue_trial(winner.params, user_attrs={"source": source})
        self.known.take_in()

    def queued_by_people(self) -> list[FrozenTrial]:
        """Trials that people have asked for and that have not begun."""
        return [trial for trial in self.trials(TrialState.WAITING) if trial.user_attrs.get("source") == "added"]

    def added(self) -> int:
        """How many trials people have asked for beside those of the budget."""
        return self.known.added

    def recover(self) -> list[int]:
        """After an interruption: the trials that were in training, in the order they were sent.

        One that was cut off while it was asked for gets the rest of its parameters.
        """
        for trial in self.trials(TrialState.RUNNING):
            self._complete(trial.number)
        running = {trial.number: trial for trial in self.trials(TrialState.RUNNING)}
        ended = {number for number, trial in running.items() if 100 in trial.intermediate_values}
        going = [standing for standing in self.standings if standing.number in running]
        cut = [s.number for s in going if not s.paused or s.sent == 0 or s.number in ended]
        return sorted(cut, key=lambda n: (running[n].user_attrs.get("order", 10**9), n))


def fingerprint(experiment: Experiment, space: SearchSpace, *, data: str) -> dict[str, str]:
    """What must not change between an interrupted sweep and its resumption, as digests."""
    tree = experiment.tree()
    return {
        "experiment": digest_of(tree),
        "space": digest_of(space.tree()),
        "data": data,
        "model": digest_of(tree["model"]),
    }


def create(
    experiment: Experiment, space: SearchSpace, *, name: str, prints: dict[str, str], parent_run: str
) -> SweepStudy:
    """Create a study with the grid in its queue; `parent_run` is the id of the sweep's run."""
    study = optuna.create_study(study_name=name, storage=storage.open_storage(), direction="minimize")
    for key, value in prints.items():
        study.set_user_attr(f"{key}_sha256", value)
    drift.remember(study, experiment, space)
    for point in proposals.grid(space):
        fixed = {key: overrides.get(experiment, key) for key in space.params}
        study.enqueue_trial({**fixed, **point}, user_attrs={"source": "grid"})
    study.set_user_attr("parent_run", parent_run)
    study.set_user_attr("created", datetime.datetime.now(datetime.UTC).isoformat())
    study.set_user_attr("experiment", experiment.name)  # last: marks the study as whole
    return SweepStudy(study, space, experiment.seed)


def summaries() -> list[optuna.study.StudySummary]:
    """Every sweep that the store knows, of whatever experiment."""
    known = storage.open_known()
    found = [] if known is None else optuna.get_all_study_summaries(known)
    return [summary for summary in found if "experiment" in summary.user_attrs]


def open_newest(experiment: str, *, need: str = "") -> optuna.Study:
    """The newest sweep of an experiment; raises `StudyError` if there is none."""
    known = [summary for summary in summaries() if summary.user_attrs["experiment"] == experiment]
    if not known:
        raise StudyError(f"{need}no sweep of {experiment} is recorded in {storage.shown_url()}; start one first")
    newest = max(known, key=lambda summary: summary.user_attrs.get("created", ""))
    return optuna.load_study(study_name=newest.study_name, storage=storage.open_storage())


def load(
    experiment: Experiment, space: SearchSpace, *, prints: dict[str, str], allow_drift: bool = False
) -> SweepStudy:
    """The newest sweep of this experiment, to resume; raises `StudyError` if it is another sweep's.

    With `allow_drift` a changed experiment, space, data or model is recorded instead of refused.
    """
    study = open_newest(experiment.name, need="--resume: ")
    require_free(study)
    changed = [key for key, value in prints.items() if study.user_attrs.get(f"{key}_sha256") != value]
    if changed and not allow_drift:
        details = drift.describe(study, experiment, space)
        raise StudyError(
            f"--resume: changed since {study.study_name} began: {', '.join(changed)}{details}; "
            "undo that, start anew, or accept it with --allow-drift"
        )
    if changed:
        study.set_user_attr("drift", sorted({*study.user_attrs.get("drift", []), *changed}))
        for key in changed:
            study.set_user_attr(f"{key}_sha256", prints[key])
        drift.remember(study, experiment, space)
    return SweepStudy(study, space, experiment.seed)


def ladder(space: SearchSpace) -> Ladder:
    """Who goes on from which rung."""
    reduction = space.halving.reduction if space.halving else 1
    return Ladder(rungs(space), reduction, finishers=space.confirm.top)


def rungs(space: SearchSpace) -> tuple[float, ...]:
    """The shares of its training at which a trial is judged, and the end.

    Without halving all go on, but a limit of time needs a trial's pace to be known early.
    """
    halving = space.halving
    if halving is None:
        return (1.0,) if space.limits.seconds is None else (Halving().first_rung, 1.0)
    shares = (round(halving.first_rung * halving.reduction**n, 9) for n in range(halving.rungs))
    return (*itertools.takewhile(lambda share: share < 1, shares), 1.0)


def fractions(space: SearchSpace) -> tuple[float, ...]:
    """Where a trial's tune loss is taken: at the rungs, and half way from the last to the end, to see it overfit."""
    *paused, end = rungs(space)
    return (*paused, round((max(paused, default=0.0) + end) / 2, 9), end)
