"""Train a run again from its record, and say whether the same came out."""

import contextlib
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow.exceptions import MlflowException

from tunesmith.config.experiment import Experiment
from tunesmith.data.dataset import load_dataset
from tunesmith.errors import ConfigError, DataError, ModelError, OutcomeError
from tunesmith.models.device import threads_of
from tunesmith.models.references import resolve
from tunesmith.progress import Bar, Progress
from tunesmith.records import TrainedRun
from tunesmith.sweep.protocol import Job
from tunesmith.tracking import runs, store
from tunesmith.tracking.runs import Run

KINDS = ("sft", "dpo", "kto", "reward", "rlhf", "confirmation", "trial")
LOSS = "train/loss"
CLOSE = 1e-3  # relative difference of a step's loss that rounding may explain, in float32
CLOSE_IN_BFLOAT16 = 5e-2  # 8 bits: a trial that shared passes, trained alone, was 2.7% off at one step of 24
LOSS_ROWS = 4  # tune loss takes no part in the training


@dataclass(frozen=True)
class Replay:
    """What a replay found.

    `outcome` is `identical` (the adapters' bits are equal), `close` (the losses of all steps agree within
    rounding) or `different`; `step` is the first step whose loss differs at all, with both losses;
    `weights_step` is the first of the steps with fingerprints (every tenth and the last) after which the weights
    differ, None where they never do or were not recorded; `surroundings` are recorded conditions that differ here
    and may explain it.
    """

    run_id: str
    outcome: str
    adapter_sha256: str
    recorded_sha256: str
    step: int | None
    losses: tuple[float, float] | None
    weights_step: int | None
    surroundings: tuple[str, ...]


def replay(run_id: str, progress: Progress) -> Replay:
    """Train a run's experiment again; raises an error when record, data or base are not what they were."""
    run = runs.attach(run_id)
    experiment = recorded_experiment(run)
    check_same_data(run, experiment)
    surroundings = differences(run)
    threads = run.tag("threads")
    as_then = threads_of(int(threads)) if threads.isdigit() else contextlib.nullcontext()
    own = runs.adopt_or_create(experiment.name, f"replay of {run_id}", kind="replay")
    with as_then, runs.recording(own), tempfile.TemporaryDirectory(dir=store.state_folder()) as folder:
        own.tags({"replays": run_id, **runs.provenance()})
        losses, trained = train(experiment, progress, folder, slots=run.tag("engine") == "slots")
        found = compare(run, losses, trained, surroundings, close=tolerance(experiment))
        own.tags({"outcome": found.outcome, "adapter_sha256": found.adapter_sha256})
        own.metrics({"replay/step": float(found.step or 0)})
    return found


def recorded_experiment(run: Run) -> Experiment:
    """The experiment that a run recorded; raises `ConfigError` for a run that cannot be replayed."""
    status = run.tag("status")
    if run.tag("kind") not in KINDS or status != "FINISHED":
        what = f"a run of kind {run.tag('kind') or 'unknown'} that is {status or 'unfinished'}"
        raise ConfigError(f"{run.id}: is {what}; finished runs of kind {', '.join(KINDS)} can be replayed")
    if run.tag("warm"):
        raise ConfigError(
            f"{run.id}: began with the weights of trial {run.tag('warm')}, which no run keeps; a confirmation of it, "
            "which begins anew, can be replayed"
        )
    try:
        tree = run.read_json("experiment.json")
    except (MlflowException, OSError):
        raise ConfigError(f"{run.id}: recorded no experiment.json; it cannot be replayed") from None
    file = run.tag("experiment_file")
    if not file:
        raise ConfigError(f"{run.id}: did not record where its experiment's file lies; it cannot be replayed")
    return Experiment.from_tree(tree, path=store.project_root() / file)


def check_same_data(run: Run, experiment: Experiment) -> None:
    """Refuse rows or a base other than those the run was trained on."""
    recorded, digest = run.tag("data_sha256"), load_dataset(experiment).digest
    if digest != recorded:
        raise DataError(
            f"{experiment.resolve(experiment.data.source)}: has the digest {digest[:12]}, the run was trained on "
            f"{recorded[:12]}; bring the rows back as they were"
        )
    base = resolve(experiment.model.base, revision=experiment.model.revision)
    if base.sha256 != run.tag("base_sha256"):
        raise ModelError(f"{experiment.model.base}: is not the base that run {run.id} was trained on")


def differences(run: Run) -> tuple[str, ...]:
    """Conditions that were recorded and are others now, in words."""
    now = runs.provenance()
    found = []
    for key, name in (("git_commit", "commit"), ("lock_sha256", "locked packages"), ("machine", "machine")):
        recorded = run.tag(key)
        if recorded and recorded != now.get(key):
            found.append(f"{name}: {recorded[:24]} then, {str(now.get(key, 'none'))[:24]} now")
    if run.tag("processes"):
        found.append(f"processes: {run.tag('processes')} trained together then, 1 now")
    if run.tag("git_dirty") == "true" or now.get("git_dirty") == "true":
        found.append("sources were changed and not committed, then or now")
    return tuple(found)


def train(
    experiment: Experiment, progress: Progress, folder: str, *, slots: bool
) -> tuple[dict[int, float], TrainedRun]:
    """Train as the run was, by the engine that did it then; returns each step's loss and the training's record."""
    from tunesmith.sweep.workbench import Workbench

    bench = Workbench(experiment)
    job = Job(experiment, "trial", folder, fractions=(1.0,), loss_rows=LOSS_ROWS, slots=slots)
    with progress.job("replay") as bar:
        recorder = LossRecorder(bar)
        done = bench.execute(job, recorder)
    assert done.trained is not None  # noqa: S101 - a training job was asked for
    return recorder.losses, done.trained


class LossRecorder:
    """Keeps the loss of every step."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar
        self.losses: dict[int, float] = {}

    def begin(self, steps: int, *, step: int = 0) -> None:
        """A training begins."""
        self.bar.begin(steps, step=step)

    def metrics(self, values: dict[str, float], *, step: int) -> None:
        """An optimiser step is done."""
        if LOSS in values:
            self.losses[step] = values[LOSS]
        self.bar.step(values, step)

    def rung(self, fraction: float, *, step: int, tune_loss: float) -> None:
        """A share of the training is done."""


def tolerance(experiment: Experiment) -> float:
    """The relative difference of a step's loss that rounding may explain here."""
    from tunesmith.models.device import place

    return CLOSE_IN_BFLOAT16 if place(experiment.model).dtype.itemsize == 2 else CLOSE


def compare(
    run: Run, losses: Mapping[int, float], trained: TrainedRun, surroundings: Sequence[str], *, close: float
) -> Replay:
    """Hold a replay's losses, fingerprints and adapter against a run's record."""
    points: list[Any] = store.client().get_metric_history(run.id, LOSS)
    recorded = {point.step: point.value for point in points}
    known, sha256 = run.tag("adapter_sha256"), trained.adapter_sha256
    if not recorded:
        raise OutcomeError(f"{run.id}: logged no {LOSS}; it cannot be compared")
    outcome, step = judge(recorded, losses, same_bits=sha256 == known, close=close)
    pair = (recorded.get(step, math.nan), losses.get(step, math.nan)) if step is not None else None
    weights = first_other(fingerprints(run), trained.fingerprints)
    return Replay(run.id, outcome, sha256, known, step, pair, weights, tuple(surroundings))


def fingerprints(run: Run) -> dict[int, str]:
    """The SHA-256s of its weights that a run logged, by step; none where it logged none."""
    try:
        return {int(step): sha256 for step, sha256 in run.read_json("fingerprints.json").items()}
    except (MlflowException, OSError):
        return {}


def first_other(recorded: Mapping[int, str], found: Mapping[int, str]) -> int | None:
    """The first step of both after which the weights are not the same. Pure."""
    return next((step for step in sorted({*recorded} & {*found}) if recorded[step] != found[step]), None)


def judge(
    recorded: Mapping[int, float], losses: Mapping[int, float], *, same_bits: bool, close: float
) -> tuple[str, int | None]:
    """The outcome, and the step that tells: the first beyond rounding, else the first that differs at all. Pure."""
    steps = sorted({*recorded, *losses})
    first = next((step for step in steps if recorded.get(step) != losses.get(step)), None)
    far = next(
        (
            step
            for step in steps
            if not math.isclose(recorded.get(step, math.nan), losses.get(step, math.nan), rel_tol=close)
        ),
        None,
    )
    if same_bits:
        return "identical", first
    return ("different", far) if far is not None else ("close", first)
