"""The worker's side of a sweep in the test's own process: segments, and the coordinator's end of the pipe."""

from tunesmith.config import overrides
from tunesmith.sweep.protocol import Ended, Job, Segment, Sharing, StepMetrics, Train
from tunesmith.sweep.segments import Segments

FUSED = Sharing(fuse=4096, most=4096, row_tokens=60)
RUNGS = (0.25, 0.5, 1.0)


class Ear:
    """The coordinator's end: answers each end with the next segments given to it, stops after some steps."""

    def __init__(self, *, stop_after=None, answers=()):
        self.messages, self.stop_after, self.answers = [], stop_after, list(answers)

    def send(self, message):
        self.messages.append(message)

    def stopping(self):
        steps = [m for m in self.messages if isinstance(m, StepMetrics) and "train/loss" in m.values]
        return self.stop_after is not None and len(steps) >= self.stop_after

    def answer(self):
        return self.answers.pop(0) if self.answers else ()

    def ends(self):
        return {m.key: m.outcome for m in self.messages if isinstance(m, Ended)}

    def of(self, kind):
        return [m for m in self.messages if isinstance(m, kind)]

    def losses(self, key):
        return {
            m.step: m.values["train/loss"] for m in self.of(StepMetrics) if m.key == key and "train/loss" in m.values
        }


def segment(experiment, folder, key="a", *, until=1.0, start=None, **values):
    changed = overrides.apply(experiment, {f"method.{name}": value for name, value in values.items()})
    job = Job(changed, "trial", str(folder / key), fractions=RUNGS, loss_rows=4, slots=True)
    return Segment(key, job, until, start=start)


def run(bench, segments, ear=None, sharing=FUSED):
    ear = ear or Ear()
    Segments(bench, Train(tuple(segments), sharing), ear).run()
    return ear
