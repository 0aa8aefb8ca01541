"""The search: trials train from rung to rung, pause there, and go on if they are among the best."""

import math
import time
from collections import Counter
from dataclasses import asdict

from optuna.trial import FrozenTrial, TrialState

from tunesmith.config import overrides
from tunesmith.errors import OutcomeError
from tunesmith.sweep import costs, racing
from tunesmith.sweep import study as studies
from tunesmith.sweep.board import HEADS, SHOWN, Pace, board
from tunesmith.sweep.budget import Budget
from tunesmith.sweep.coordinator import SHARING, Coordinator, name_of, number_of
from tunesmith.sweep.crew import MAX_DEATHS, Task, persistent
from tunesmith.sweep.executors import LocalWorker, WorkerDied
from tunesmith.sweep.lane import Lane
from tunesmith.sweep.outcomes import Outcomes
from tunesmith.sweep.protocol import Ended, Rival, Segment, Sharing
from tunesmith.sweep.trial_runs import TrialRuns, end
from tunesmith.tracking import runs
from tunesmith.tracking.runs import Killed, Run

WAIT_SECONDS = 0.5
DEATHS_TOGETHER = 2


class Search:
    """Hands segments to workers until the budget is spent.

    Every decision is a function of what the study records: which trial goes on, what is tried next. With
    one worker a resumed search therefore repeats, bit for bit, what the uninterrupted one would have done.
    """

    def __init__(self, coordinator: Coordinator, budget: Budget) -> None:
        self.coordinator, self.budget = coordinator, budget
        self.study, self.lock = coordinator.study, coordinator.lock
        self.space, self.progress = coordinator.space, coordinator.progress
        self.rungs = studies.rungs(self.space)
        self.ladder = studies.ladder(self.space)
        self.began, self.known_before = time.monotonic(), self.study.known.reports
        self.waiting = self.study.recover()
        self.running: set[int] = set()
        self.runs, self.outcomes = TrialRuns(coordinator), Outcomes(coordinator)
        self._end_infeasible()
        self.preparing: list[Task] = []

    def _end_infeasible(self) -> None:
        """End the trials that were found infeasible when the sweep was cut off."""
        for trial in self.study.trials(TrialState.RUNNING):
            if "infeasible" in trial.user_attrs:
                self.outcomes.infeasible(trial, trial.user_attrs["infeasible"], self.runs.of(trial))
                self.waiting = [number for number in self.waiting if number != trial.number]

    def run(self) -> None:
        """Score the base, then search; the runs of trials that wait when the search is cut are closed."""
        if self.coordinator.sharing is None:
            self.preparing.append(persistent(self._calibrate))
        if "base_scored" not in self.study.study.user_attrs:
            self.preparing.append(self._score_base)
        self.coordinator.enter("searching")
        try:
            self.coordinator.crew.work(self._take)
        except BaseException:
            if self.coordinator.lease.held:
                self._leave_waiting()
            raise
        finally:
            self.progress.end_table()
        self.coordinator.lease.check()
        self._close()

    def _leave_waiting(self) -> None:
        """Close the runs of trials that a resumed sweep will go on with."""
        for trial in self.study.trials(TrialState.RUNNING):
            if "run_id" in trial.user_attrs:
                runs.attach(trial.user_attrs["run_id"]).finish("KILLED", reason="the sweep was stopped")

    def _calibrate(self, worker: LocalWorker) -> None:
        sharing = worker.calibrate(self.coordinator.experiment)
        with self.lock:
            self.study.study.set_user_attr(SHARING, asdict(sharing))
            self.lock.notify_all()
        self.progress.note(f"  {self._describe(sharing)}")

    def _describe(self, sharing: Sharing) -> str:
        seats = self._seats(sharing)
        if seats > 1:
            return f"up to {seats} trials train side by side on one base, in passes of up to {sharing.fuse} tokens"
        why = ": sharing passes does not pay at this length of rows" if sharing.ratios else ""
        return f"each worker trains one trial at a time{why}"

    def _seats(self, sharing: Sharing) -> int:
        bounds = self.space.params.get("method.batch_size")
        sizes = [*(bounds.ends() if bounds else []), self.coordinator.experiment.method.batch_size]
        return sharing.seats(min(sizes))

    def _score_base(self, worker: LocalWorker) -> None:
        run = self.coordinator.child("base", kind="base")
        scores = self.coordinator.score(worker, run, items="trial", adapter=None)
        primary = self.coordinator.experiment.evaluation.primary
        loss = scores.metrics.get("tune/loss", math.nan)
        self.progress.note(f"  base       tune/loss {loss:.3f}, {primary} {scores.metrics[primary]:.3f}")
        with self.lock:
            if math.isfinite(loss):
                self.study.study.set_user_attr("base_loss", loss)
            self.study.study.set_user_attr("base_scored", scores.metrics[primary])

    def _take(self) -> Task | None:
        """Work for a free worker, once there is some; None when the search has ended."""
        with self.lock:
            while not self.coordinator.crew.stopping:
                if self.preparing:
                    return self.preparing.pop(0)
                sharing = self.coordinator.sharing
                if sharing is not None and not self.coordinator.paused:
                    segments = self.next_segments(self._seats(sharing))
                    if segments:
                        return lambda worker: self._train(worker, segments, sharing)
                    if not self.running:
                        return None
                self.lock.wait(timeout=WAIT_SECONDS)
        return None

    def next_segments(self, places: int, *, joining: bool = False) -> tuple[Segment, ...]:
        """Segments for free places, as far as something can be done now; called under the lock.

        A trial that has lost its worker twice is given a lane of its own: it neither has others beside it nor joins
        them. After one death all go on together, since who shares a pass decides on its last bits.
        """
        self.coordinator.lease.check()
        found: list[Segment] = []
        held = self.coordinator.paused or self.coordinator.crew.stopping
        while not held and len(found) < places:
            alone = bool(self.waiting) and self.trains_alone(self.waiting[0])
            if alone and (found or joining):
                break
            segment = self._next_segment()
            if segment is None:
                break
            found.append(segment)
            if alone:
                break
        return tuple(found)

    def trains_alone(self, number: int) -> bool:
        """Whether workers that trained a trial have died so often since it last got on that it goes on alone."""
        return int(self.study.trials()[number].user_attrs.get("deaths", 0)) >= DEATHS_TOGETHER

    def _next_segment(self) -> Segment | None:
        """What was cut off, else the best trial that may go on, else a new one."""
        while self.waiting:
            number = self.waiting.pop(0)
            trial = self.study.trials()[number]
            if trial.intermediate_values or self._affordable(trial):
                sent = trial.user_attrs.get("sent", 1)
                return self._send(number, min(max(1, sent), len(self.rungs)))  # a drifted space may have fewer rungs
        may_ask = self._may_ask()
        standing = self.ladder.promotable(self.study.standings, closing=not may_ask)
        if standing is not None:
            return self._send(standing.number, standing.sent + 1)
        while may_ask:
            trial = self.study.ask(added=self._spent())
            if self._affordable(trial):
                return self._segment(trial, 1)
            may_ask = self._may_ask()
        return None

    def _affordable(self, trial: FrozenTrial) -> bool:
        """Note what a trial would cost, if that matters; one beyond the limits ends here."""
        if not costs.wanted(self.space):
            return True
        quoted = costs.quote(overrides.apply(self.coordinator.experiment, trial.params))
        self.study.remember(trial.number, costs=quoted)
        reason = costs.too_large(self.space, quoted)
        if reason:
            self.outcomes.infeasible(trial, reason, self.runs.of(trial))
        return not reason

    def _may_ask(self) -> bool:
        """Whether another trial may begin; one that a person asked for may beyond time and target too."""
        if self.study.begun() >= self.budget.trials + self.study.added():
            return False
        return bool(self.study.queued_by_people()) or not self._spent()

    def _spent(self) -> bool:
        """Whether the time is over or a tune loss suffices."""
        if self.budget.hours is not None and time.monotonic() - self.began > self.budget.hours * 3600:
            return True
        return self.study.reached(self.budget.target)

    def _send(self, number: int, rung: int) -> Segment:
        self.study.send(number, rung)
        return self._segment(self.study.trials()[number], rung)

    def _segment(self, trial: FrozenTrial, rung: int) -> Segment:
        self.running.add(trial.number)
        experiment = overrides.apply(self.coordinator.experiment, trial.params)
        warm = trial.user_attrs.get("warm")
        return self.coordinator.segment(
            name_of(trial.number),
            experiment,
            items="trial",
            fractions=studies.fractions(self.space),
            until=self.rungs[rung - 1],
            start=None if warm is None else name_of(warm),
            rival=self._rival(trial) if rung == len(self.rungs) else None,
        )

    def _rival(self, trial: FrozenTrial) -> Rival | None:
        """Whom a trial is raced against: the best there was when it was first sent to its end."""
        if not self.coordinator.experiment.evaluation.racing:
            return None
        if "rival" not in trial.user_attrs:
            best = racing.incumbent(self.study.trials(TrialState.COMPLETE))
            self.study.remember(trial.number, rival=best)
        best = trial.user_attrs["rival"]
        return None if best is None else racing.rival(self.study.trials()[best])

    def _train(self, worker: LocalWorker, segments: tuple[Segment, ...], sharing: Sharing) -> None:
        lane = Lane(self, segments)
        try:
            worker.train(segments, sharing, lane)
        except WorkerDied as death:
            if self.coordinator.crew.stopping:
                raise Killed("the sweep was stopped") from None
            self._worker_died([number_of(key) for key in lane.leave_all()], death)
        except Killed:
            if self.coordinator.crew.stopping:
                raise
            self._set_aside([number_of(key) for key in lane.leave_all()])
        finally:
            lane.leave_all()

    def _set_aside(self, numbers: list[int]) -> None:
        """Trials that left their worker go on before anything else."""
        with self.lock:
            self.running.difference_update(numbers)
            self.waiting += numbers
            self.lock.notify_all()

    def _worker_died(self, numbers: list[int], death: WorkerDied) -> None:
        """Let the trials that lost their worker go on from their checkpoints; give up after three times in a row."""
        with self.lock:
            for number in numbers:
                trial = self.study.trials()[number]
                deaths = trial.user_attrs.get("deaths", 0) + 1
                self.study.remember(number, deaths=deaths)
                self.runs.of(trial).tags({"retries": deaths, "retry_reason": str(death)})
                if deaths >= MAX_DEATHS:
                    raise OutcomeError(f"trial {number} lost its worker {deaths} times at the same segment: {death}")
        self._set_aside(numbers)
        names = ", ".join(str(number) for number in numbers)
        alone = ", alone" if self.trains_alone(numbers[0]) else ""
        self.progress.note(f"  {str(death).splitlines()[0]}; trial {names} goes on from the last checkpoint{alone}")

    def end_segment(self, ended: Ended, run: Run) -> None:
        """Record how a segment ended, in the study first, then on its run; called under the lock."""
        self.coordinator.lease.check()
        number = number_of(ended.key)
        trial = self.study.trials()[number]
        self.outcomes.record(trial, ended.outcome, run)
        self.running.discard(number)
        self._show()
        self.lock.notify_all()

    def _show(self) -> None:
        study, wanted = self.study, self.budget.trials + self.study.added()
        ended, seconds = study.known.reports, time.monotonic() - self.began
        pace = Pace(study.begun(), ended, ended - self.known_before, seconds)
        shown = board(study.ranking(SHOWN), self.ladder, trials=wanted, pace=pace)
        self.progress.table(shown.title, HEADS, shown.rows)

    def _close(self) -> None:
        """End the trials that still wait on a rung: others were better there."""
        waiting = self.study.trials(TrialState.RUNNING)
        for trial in waiting:
            self.study.prune(trial.number)
            end(self.runs.of(trial), trial)
        if waiting:
            pruned = self.study.trials(TrialState.PRUNED)
            halved = Counter(max(t.intermediate_values, default=0) for t in pruned if "infeasible" not in t.user_attrs)
            parts = ", ".join(f"{count} at {percent}%" for percent, count in sorted(halved.items()))
            self.progress.note(f"halved: {parts}; trained to the end: {self.study.known.count(TrialState.COMPLETE)}")
