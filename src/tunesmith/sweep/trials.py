"""The trials of a study in memory, kept by the one process that writes them: each write reaches the database first."""

import datetime
import math
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from tunesmith.sweep.rungs import Standing, Standings

JUDGED_BY_RUNGS = (TrialState.COMPLETE, TrialState.RUNNING)
RANKED = (*JUDGED_BY_RUNGS, TrialState.PRUNED)
STATES = (*RANKED, TrialState.WAITING, TrialState.FAIL)

Place = tuple[int, float, int]


class Trials:
    """Read from the database once; who asks for some by state, rung or rank gets them without reading all again.

    `guard` is called before each write, and raises where this process must not write any more.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.study, self.storage = study, study._storage
        self.guard: Callable[[], None] = lambda: None
        self.all: list[FrozenTrial] = []
        self.standings = Standings()
        self.sendings = self.reports = 0
        self._added = 0
        self._in_state: dict[TrialState, dict[int, FrozenTrial]] = {state: {} for state in STATES}
        self._ranked: list[Place] = []
        self._places: dict[int, Place] = {}
        self.take_in()

    def take_in(self) -> None:
        """Read the trials that are not known yet: all, or those that were queued."""
        for trial in self.study.get_trials()[len(self.all) :]:
            self._append(trial)

    def count(self, *states: TrialState) -> int:
        """How many trials are in these states."""
        return sum(len(self._in_state[state]) for state in states)

    def of(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in these states, by number."""
        found = [trial for state in states for trial in self._in_state[state].values()]
        return sorted(found, key=lambda trial: trial.number)

    @property
    def added(self) -> int:
        """How many trials people have asked for, but for those that could not begin."""
        refused = [trial for trial in self.of(TrialState.FAIL) if trial.user_attrs.get("source") == "added"]
        return self._added - len(refused)

    def ranking(self, most: int | None = None) -> list[FrozenTrial]:
        """Trials that have a value, best first: the further one got, then the lower its loss.

        One that lost a race on the primary metric is none of them, however low its loss, nor is an infeasible one.
        """
        return [self.all[number] for *_, number in islice(self._ranked, most)]

    def create(
        self, params: Mapping[str, Any], distributions: dict[str, BaseDistribution], **attributes: Any
    ) -> FrozenTrial:
        """A new trial that runs, with its parameters and attributes, in one transaction."""
        self.guard()
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=dict(params), distributions=distributions, user_attrs=attributes
        )
        trial._trial_id = self.storage.create_new_trial(self.study._study_id, trial)
        trial.number = len(self.all)
        self._append(trial)
        return trial

    def begin(self, number: int) -> None:
        """Take a trial out of the queue; it has its parameters still to be given."""
        self.guard()
        self.storage.set_trial_state_values(self.all[number]._trial_id, TrialState.RUNNING)

    def read_again(self, number: int) -> FrozenTrial:
        """A trial as the database has it, after Optuna wrote to it."""
        self.all[number] = self.storage.get_trial(self.all[number]._trial_id)
        self._place(self.all[number])
        return self.all[number]

    def remember(self, number: int, **attributes: Any) -> None:
        """Set attributes of a running trial."""
        self.guard()
        trial = self.all[number]
        for name, value in attributes.items():
            self.storage.set_trial_user_attr(trial._trial_id, name, value)
            trial.set_user_attr(name, value)
        self._place(trial)

    def report(self, number: int, losses: Mapping[int, float]) -> None:
        """Record tune losses by the percentage of the training after which they were taken."""
        self.guard()
        trial = self.all[number]
        for percent, loss in losses.items():
            self.storage.set_trial_intermediate_value(trial._trial_id, percent, loss)
            trial.intermediate_values[percent] = loss
        self.reports += len(losses)
        self._place(trial)

    def end(self, number: int, state: TrialState, value: float | None) -> None:
        """End a trial."""
        self.guard()
        trial = self.all[number]
        values = None if value is None else [value]
        self.storage.set_trial_state_values(trial._trial_id, state, values)
        trial.state, trial.values = state, values
        trial.datetime_complete = datetime.datetime.now()  # as Optuna has it, without a zone
        self._place(trial)

    def _append(self, trial: FrozenTrial) -> None:
        self.all.append(trial)
        self._added += int(trial.user_attrs.get("source") == "added")
        self.reports += len(trial.intermediate_values)
        self._place(trial)

    def _place(self, trial: FrozenTrial) -> None:
        """Put a trial where it belongs now."""
        number = trial.number
        for state, members in self._in_state.items():
            if state != trial.state:
                members.pop(number, None)
        self._in_state[trial.state][number] = trial
        self.sendings = max(self.sendings, trial.user_attrs.get("order", 0))
        if trial.state in JUDGED_BY_RUNGS:
            losses = tuple(comparable(loss) for _, loss in sorted(trial.intermediate_values.items()))
            self.standings.put(Standing(number, losses, trial.user_attrs.get("sent", len(losses))))
        else:
            self.standings.drop(number)
        self._rank(trial)

    def _rank(self, trial: FrozenTrial) -> None:
        known = self._places.pop(trial.number, None)
        if known is not None:
            del self._ranked[bisect_left(self._ranked, known)]
        barred = "raced" in trial.user_attrs or "infeasible" in trial.user_attrs
        if trial.state in RANKED and trial.intermediate_values and not barred:
            place = (-max(trial.intermediate_values), comparable(last_value(trial)), trial.number)
            self._places[trial.number] = place
            insort(self._ranked, place)


def last_value(trial: FrozenTrial) -> float:
    """The tune loss that a trial reported last."""
    value: float = trial.intermediate_values[max(trial.intermediate_values)]
    return value


def comparable(loss: float) -> float:
    """A loss that can be ordered: what is no number is the worst."""
    return math.inf if math.isnan(loss) else loss
