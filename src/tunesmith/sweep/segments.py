"""The segments that a worker trains side by side: in one slots engine, or one after the other through TRL."""

import contextlib
import json
import pathlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith import manifest
from tunesmith.errors import DiskError, StartError, TrainingError, TunesmithError
from tunesmith.models.device import ran_out_of_memory
from tunesmith.sweep.protocol import (
    CHECKPOINTS,
    Ended,
    Failed,
    Interrupted,
    Outcome,
    Paused,
    Refused,
    Segment,
    Spent,
    Train,
)
from tunesmith.sweep.relay import Channel, Relay
from tunesmith.train import checkpoint as checkpoints
from tunesmith.train.recorder import Recorder
from tunesmith.train.run import out_of_memory_explained, start_of
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.passes import Limits
from tunesmith.train.slots.slot import StepResult
from tunesmith.train.slots.training import SlotTraining, share_of_time
from tunesmith.train.start import take
from tunesmith.train.trl import TrlTraining

if TYPE_CHECKING:
    from tunesmith.sweep.workbench import Workbench

CHECKPOINT_SECONDS = 20.0
"""Work that a kill can cost, at most; a checkpoint takes some 0.15 s."""
CUTS, START = "cut-{seat}.json", "start"


@dataclass(frozen=True)
class Seat:
    """A segment in training, and the step at which it ends."""

    segment: Segment
    training: SlotTraining
    last: int


class Segments:
    """Runs the segments of one `Train` order until no place is taken any more."""

    def __init__(self, bench: "Workbench", order: Train, channel: Channel) -> None:
        self.bench, self.channel = bench, channel
        self.limits = Limits(order.sharing.fuse, order.sharing.most)
        self.engine: Engine | None = None
        self.seats: dict[str, Seat] = {}
        self.uncovered: list[Segment] = []
        self.one_by_one = False
        self.saved = time.monotonic()
        self._place(order.segments)

    def run(self) -> None:
        """Train, answer each end with what the coordinator sends, leave when nothing is left or at a stop."""
        while self.seats or self.uncovered:
            if self.channel.stopping():
                self._save()
                self.channel.send(Interrupted())
                return
            if self.uncovered:
                segment = self.uncovered.pop(0)
                outcome = self._by_trl(segment)
                if outcome is None:
                    self.channel.send(Interrupted())
                    return
                self._report({segment.key: outcome})
            else:
                self._advance()

    def _place(self, segments: Iterable[Segment]) -> None:
        """Give each segment its slot, on from its newest checkpoint, or put it in line for TRL."""
        for segment in segments:
            experiment = segment.job.experiment
            reason = self.bench.uncovered(experiment)
            if reason is not None:
                self.uncovered.append(segment)
                continue
            try:
                with self._enough_memory(segment):
                    self.seats[segment.key] = self._seat(segment)
            except TunesmithError as error:
                self._report({segment.key: failure(error)})

    def _seat(self, segment: Segment) -> Seat:
        self.engine = self.engine or Engine(self.bench.base, self.limits)
        relay, folder = Relay(self.channel, segment.key), checkpoints_of(segment)
        relay.route("slots")
        recorder = self._recorder(segment, relay)
        cut = last_cut(folder.parent.parent, segment.key)
        found = checkpoints.newest(folder, at_most=cut, warn=relay.warn)
        training = SlotTraining(self.engine, segment.key, segment.job.experiment, recorder, folder=folder, found=found)
        try:
            self._inherit(segment, training, relay)
        except TunesmithError:
            training.leave()
            raise
        return Seat(segment, training, _last_step(recorder, segment))

    def _recorder(self, segment: Segment, relay: Relay) -> Recorder:
        data = self.bench.training_data(segment.job)
        return Recorder(data, fractions=segment.job.fractions, reporter=relay)

    def _advance(self) -> None:
        """One optimiser step of every seat that has not reached its end, then the ends."""
        ended: dict[str, Outcome] = {}
        going = [key for key, seat in self.seats.items() if seat.training.step < seat.last]
        began = time.perf_counter()
        results = self._step(going, ended)
        shares = share_of_time(results, time.perf_counter() - began)
        for key, result in results.items():
            try:
                with self._enough_memory(self.seats[key].segment):
                    self.seats[key].training.take(result, seconds=shares[key])
            except TunesmithError as error:
                ended[key] = failure(error, self.seats[key].training.recorder)
        arrived = [key for key, seat in self.seats.items() if key not in ended and seat.training.step >= seat.last]
        if arrived or time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            self._save(without=ended)
        ended |= {key: self._arrival(self.seats[key]) for key in arrived}
        for key in ended:
            self.seats.pop(key).training.leave()
        self._report(ended)

    def _step(self, keys: list[str], ended: dict[str, Outcome]) -> dict[str, StepResult]:
        """Step all together; after memory ran out, one by one, so that only what is too large fails."""
        assert self.engine is not None or not keys  # noqa: S101 - a seat has an engine
        if self.engine is None or not keys:
            return {}
        if not self.one_by_one:
            try:
                together = self.engine.step(keys)
                return {key: together[key] for key in keys}
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                self.engine.forget_gradients()
                self.one_by_one = True
        results: dict[str, StepResult] = {}
        for key in keys:
            try:
                with self._enough_memory(self.seats[key].segment):
                    results[key] = self.engine.step([key])[key]
            except TrainingError as error:
                self.engine.forget_gradients()
                ended[key] = failure(error, self.seats[key].training.recorder)
        return results

    def _enough_memory(self, segment: Segment) -> contextlib.AbstractContextManager[None]:
        """A lack of memory inside the block is this segment's failure, with its remedies."""
        return out_of_memory_explained(segment.job.experiment, self.bench.base)

    def _arrival(self, seat: Seat) -> Outcome:
        """What came of a segment that reached its last step."""
        training = seat.training
        if training.step < training.steps:
            return paused(training.recorder, training.step)
        try:
            with training.attached() as model:
                return self.bench.finish(model, seat.segment.job, training.recorder)
        except TunesmithError as error:
            return failure(error, training.recorder)

    def _report(self, ended: dict[str, Outcome]) -> None:
        for key, outcome in ended.items():
            self.channel.send(Ended(key, outcome))
            self._place(self.channel.answer())

    def _save(self, without: Iterable[str] = ()) -> None:
        """Save every training at this very step, and note that these checkpoints belong together.

        Whoever shares a pass decides on the last bits; going on from one cut through all of them repeats these.
        """
        steps = {}
        for key, seat in self.seats.items():
            if key not in without:
                seat.training.save()
                steps[key] = seat.training.step
        if steps:
            folder = checkpoints_of(next(iter(self.seats.values())).segment).parent.parent
            path = folder / CUTS.format(seat=self.bench.seat)
            with checkpoints.room_for(path), manifest.writing_file(path) as aside:
                aside.write_text(json.dumps(steps) + "\n", encoding="utf-8")
        self.saved = time.monotonic()

    def _inherit(self, segment: Segment, training: SlotTraining | TrlTraining, relay: Relay) -> None:
        """Give a fresh training the weights that it is to begin with; raises `StartError` where that cannot be."""
        if segment.start and training.fresh:
            source, own = pathlib.Path(segment.start) / CHECKPOINTS, pathlib.Path(segment.job.folder) / START
            start = take(source, own, self.bench.base, warn=relay.warn)
            training.begin_with(start)
            relay.inherit(start.step)

    def _by_trl(self, segment: Segment) -> Outcome | None:
        """Train a segment that the engine does not cover; None if the coordinator stopped it."""
        relay = Relay(self.channel, segment.key)
        recorder = self._recorder(segment, relay)
        try:
            with self._enough_memory(segment):
                return self._through(segment, recorder, relay)
        except TunesmithError as error:
            return failure(error, recorder)

    def _through(self, segment: Segment, recorder: Recorder, relay: Relay) -> Outcome | None:
        experiment = segment.job.experiment
        base = start_of(self.bench.base, experiment)
        folder, reason = checkpoints_of(segment), self.bench.uncovered(experiment)
        training = TrlTraining(base, self.bench.tokenizer, experiment, recorder, folder, warn=relay.warn)
        recorder.engine = f"{training.method.engine}: {reason}"
        relay.route(training.method.engine, reason)
        last = _last_step(recorder, segment)
        if training.step >= last:
            return paused(recorder, training.step)
        self._inherit(segment, training, relay)

        def stop(step: int) -> bool:
            return step >= last or self.channel.stopping()

        with training.run(stop, save_seconds=CHECKPOINT_SECONDS) as model:
            reached = recorder.curves["train/loss"][-1][0]
            if reached == max(recorder.marks):
                return self.bench.finish(model, segment.job, recorder)
            return paused(recorder, reached) if reached >= last else None


def checkpoints_of(segment: Segment) -> pathlib.Path:
    """Where the checkpoints of a segment's training lie."""
    return pathlib.Path(segment.job.folder) / CHECKPOINTS


def last_cut(folder: pathlib.Path, key: str) -> int | None:
    """The newest step of a training up to which all that shared its passes were saved; None if none is noted."""
    steps = []
    for path in folder.glob(CUTS.format(seat="*")):
        steps.append(json.loads(path.read_text(encoding="utf-8")).get(key, -1))
    newest = max(steps, default=-1)
    return newest if newest >= 0 else None


def _last_step(recorder: Recorder, segment: Segment) -> int:
    """The step at which a segment ends: the first mark at or beyond its share."""
    return min(step for step, fraction in recorder.marks.items() if fraction >= segment.until)


def paused(recorder: Recorder, step: int) -> Paused:
    """The record of a training that stopped at a mark."""
    loss = recorder.curves["tune/loss"][-1][1]
    return Paused(recorder.marks[step], step, max(recorder.marks), loss, recorder.tokens, recorder.seconds)


def failure(error: Exception, recorder: Recorder | None = None) -> Failed | Refused:
    """An error of a training as its outcome, with what its recorder has counted if it had begun.

    A full disk is no training's fault and is raised instead.
    """
    if isinstance(error, DiskError):
        raise error
    if isinstance(error, StartError):
        return Refused(str(error))
    return Failed(str(error), user_error=True, spent=None if recorder is None else spent(recorder))


def spent(recorder: Recorder) -> Spent:
    """What a training has taken so far."""
    steps, done = max(recorder.marks, default=0), recorder.curves.get("train/loss", [])
    fraction = done[-1][0] / steps if done and steps else 0.0
    return Spent(recorder.tokens, recorder.seconds, steps, fraction)
