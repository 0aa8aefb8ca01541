"""Train one adapter on a base that stays loaded: through TRL, or in the slots engine where that covers it."""

import contextlib
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from tunesmith import manifest
from tunesmith.config.experiment import Experiment
from tunesmith.errors import TrainingError
from tunesmith.models.loading import attach_fresh, detach
from tunesmith.records import TrainedRun
from tunesmith.train.loss import mean_loss
from tunesmith.train.recorder import Recorder
from tunesmith.train.sft import build_trainer
from tunesmith.train.slots.coverage import covers
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.slot import Plan

LOGGED = {"loss": "train/loss", "learning_rate": "train/learning_rate", "grad_norm": "train/grad_norm"}
SLOT = "solo"


@contextlib.contextmanager
def trained_adapter(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    experiment: Experiment,
    recorder: Recorder,
    *,
    folder: pathlib.Path,
    slots: bool = False,
) -> Iterator[tuple[PeftModel, TrainedRun]]:
    """Train a fresh adapter on the recorder's rows, save it in `folder`, and give the model with it attached.

    The base is bare again afterwards. With `slots`, the slots engine trains what it covers; TRL trains the
    rest, and the record's `engine` says why. Raises `TrainingError` for a non-finite loss or when memory
    runs out.
    """
    reason = covers(base, experiment) if slots else ""
    if reason is None:
        recorder.engine, way = "slots", _in_slot(base, experiment, recorder)
    else:
        recorder.engine = f"trl: {reason}" if reason else "trl"
        way = _by_trl(base, tokenizer, experiment, recorder, folder)
    with out_of_memory_explained(experiment), way as model:
        with manifest.writing(folder / "adapter") as aside:
            model.save_pretrained(aside, safe_serialization=True)
        yield model, recorder.finish(model, folder / "adapter")


@contextlib.contextmanager
def out_of_memory_explained(experiment: Experiment) -> Iterator[None]:
    """Turn a device's lack of memory into a `TrainingError` with its remedies."""
    try:
        yield
    except torch.OutOfMemoryError:
        remedy = "halve method.micro_batch, set method.gradient_checkpointing, or use adapter.kind qlora"
        raise TrainingError(f"out of memory with {experiment.method.batch_size} rows a step; {remedy}") from None


@contextlib.contextmanager
def _in_slot(base: PreTrainedModel, experiment: Experiment, recorder: Recorder) -> Iterator[PeftModel]:
    engine = Engine(base)
    slot = engine.join(SLOT, Plan.of(experiment, recorder.data.train))
    recorder.begin(slot.plan.steps)
    while not slot.done:
        recorder.start_clock()
        result = engine.step()[SLOT]
        recorder.stop_clock()
        recorder.tokens = slot.tokens
        if result.nonfinite:
            what = f"loss {result.loss:g}, gradient norm {result.grad_norm:g}"
            raise TrainingError(f"{what} at step {result.step + 1}; lower method.learning_rate")
        values = {
            "train/loss": result.loss,
            "train/learning_rate": result.learning_rate,
            "train/grad_norm": result.grad_norm,
        }
        recorder.step(values, step=result.step)
        if result.step in recorder.marks:
            recorder.tune_loss(engine.tune_loss([SLOT], recorder.data.tune)[SLOT], step=result.step)
    with engine.attached(SLOT) as model:
        yield model


@contextlib.contextmanager
def _by_trl(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    experiment: Experiment,
    recorder: Recorder,
    folder: pathlib.Path,
) -> Iterator[PeftModel]:
    model = attach_fresh(base, experiment.adapter, seed=experiment.seed)
    try:
        watch = Watch(recorder, pad=tokenizer.pad_token_id, batch_size=experiment.evaluation.batch_size)
        with _quiet():
            rows = recorder.data.train
            trainer = build_trainer(experiment, model, tokenizer, rows, folder=folder, callbacks=[watch])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        yield model.eval()
    finally:
        detach(model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence deprecation warnings that transformers and TRL cause each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


class Watch(TrainerCallback):
    """Follows a TRL training for a recorder: its steps, and the tune loss at the recorder's marks."""

    def __init__(self, recorder: Recorder, *, pad: int, batch_size: int) -> None:
        self.recorder, self.pad, self.batch_size = recorder, pad, batch_size

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The number of steps is known."""
        self.recorder.begin(state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock of a step."""
        self.recorder.start_clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock of a step."""
        self.recorder.stop_clock()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report a step, and measure tune loss where a mark stands (after its train loss is known)."""
        logs = kwargs["logs"]
        if "loss" not in logs:
            return
        self.recorder.tokens = int(logs.get("num_tokens", self.recorder.tokens))
        values = {name: float(logs[key]) for key, name in LOGGED.items() if key in logs}
        self.recorder.step(values, step=state.global_step)
        if state.global_step in self.recorder.marks:
            self._measure(kwargs["model"], state.global_step)

    def _measure(self, model: PeftModel, step: int) -> None:
        model.eval()
        loss = mean_loss(model.get_base_model(), self.recorder.data.tune, pad=self.pad, batch_size=self.batch_size)
        model.train()
        self.recorder.tune_loss(loss, step=step)
