"""One training through a trainer of TRL or transformers, which can stop at a share of it and go on later."""

import contextlib
import json
import math
import pathlib
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from tunesmith import manifest
from tunesmith.config.experiment import Experiment
from tunesmith.errors import StartError
from tunesmith.models.architecture import architecture_of
from tunesmith.models.loading import as_saved, attach_fresh, full_copy, release, trained_weights
from tunesmith.train import checkpoint as checkpoints
from tunesmith.train.method import LOGGED, Method, method_of, steps_of
from tunesmith.train.optimiser import prepare
from tunesmith.train.recorder import Recorder
from tunesmith.train.sharding import gathered, set_aside, whole_state
from tunesmith.train.start import PREFIX, Start
from tunesmith.train.team import check_size, part, team

RECORD = "recorder.json"
MOST_SAVING = 0.05


class TrlTraining:
    """A training by such a trainer, fresh or from its newest checkpoint in `folder`."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        experiment: Experiment,
        recorder: Recorder,
        folder: pathlib.Path,
        *,
        warn: checkpoints.Warn = warnings.warn,
    ) -> None:
        self.base, self.tokenizer, self.experiment, self.recorder = base, tokenizer, experiment, recorder
        self.folder, self.team = folder, team()
        self.method = method_of(experiment, architecture_of(base.config))
        self.found = checkpoints.newest_by(_read, folder, warn=warn) if folder.is_dir() else None
        if self.found:
            recorder.restore(json.loads((self.found / RECORD).read_text(encoding="utf-8")))
        self.start: Start | None = None
        self.step = recorder.curves["train/loss"][-1][0] if self.found else 0
        recorder.begin(steps_of(self.method, experiment, len(recorder.data.train)), step=self.step)

    @property
    def fresh(self) -> bool:
        """Whether it has no checkpoint to go on from."""
        return self.found is None

    def begin_with(self, start: Start) -> None:
        """Begin with another training's weights; `run` raises `StartError` if they do not fit."""
        self.start = start

    @contextlib.contextmanager
    def run(
        self, stop: Callable[[int], bool] = lambda _: False, *, save_seconds: float = math.inf
    ) -> Iterator[PreTrainedModel]:
        """Train until the end or until `stop`, asked after each step, says so; the block has the adapter attached.

        Stopped before its end, the training is saved below the folder; so it is about every `save_seconds`.
        """
        sharded = self.team.parallel == "fsdp"
        model = self._begin(set_aside(self.base, self.team) if sharded else self.base)
        try:
            watch = Watch(self.recorder, stop, self.experiment, self.method, Saving(self._keep, save_seconds))
            with _quiet():
                trainer = self._trainer(model, watch)
                trainer.train(resume_from_checkpoint=str(self.found) if self.found else None)
                model = self._whole(model, trainer) if sharded else model
                part(self.team)
            step = trainer.state.global_step
            if not watch.paused:
                if step < trainer.state.max_steps:  # the method ended it early
                    reasons = [getattr(callback, "reason", "") for callback in trainer.callback_handler.callbacks]
                    self.recorder.stopped = next(filter(None, reasons), "")
                    self.recorder.marks[step] = 1.0
                    watch.measure(model, step)
                self.recorder.weights = trained_weights(model)
                model = as_saved(model, self.base)
            yield model.eval()
        finally:
            release(model)

    def _begin(self, base: PreTrainedModel) -> PreTrainedModel:
        adapter, seed, parent = self.experiment.adapter, self.experiment.seed, self.recorder.data.parent
        if adapter.kind == "full":
            return full_copy(base, adapter, seed=seed)
        return attach_fresh(base, adapter, seed=seed, parent=parent)

    def _whole(self, model: PreTrainedModel, trainer: Any) -> PreTrainedModel:
        """The base that was set aside, on its device again, with what was trained in shards; process 0 gets it."""
        device, state = model.device, whole_state(trainer)
        if not self.team.leads:
            return model
        whole = self._begin(self.base.to(device))
        whole.load_state_dict(state)
        return whole

    def _trainer(self, model: PreTrainedModel, watch: "Watch") -> Any:
        """The method's trainer, ready to train the model that is to begin or go on."""
        folder, data = self.folder / "trl", self.recorder.data
        trainer = self.method.build_trainer(
            self.experiment, model, self.tokenizer, data, folder=folder, callbacks=[watch]
        )
        check_size(trainer.accelerator.num_processes, self.team.size)
        trainer.remove_callback(PrinterCallback)
        prepare(trainer, self.experiment)
        if self.start is not None:  # after the reference policy was taken
            self.start.write_to(_adapter(model))
        trainer._total_train_tokens = self.recorder.tokens  # TRL counts anew when it goes on
        return trainer

    def _keep(self, step: int) -> None:
        """Turn what the trainer wrote into a checkpoint that is whole or absent."""
        written, target = self.folder / "trl", checkpoints.folder_of(self.folder, step)
        with checkpoints.room_for(target), manifest.writing(target) as aside:
            for path in (written / f"checkpoint-{step}").iterdir():
                path.rename(aside / path.name)
            (aside / RECORD).write_text(json.dumps(self.recorder.state()) + "\n", encoding="utf-8")
        shutil.rmtree(written)  # and what a kill has left there
        checkpoints.keep_newest(self.folder)


def _adapter(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A fresh adapter's own matrices, by the names that `Start` uses."""
    if not isinstance(model, PeftModel):
        raise StartError("a whole model (adapter.kind full) cannot begin with another trial's weights")
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name.removeprefix(PREFIX): weight for name, weight in weights.items()}


def _read(folder: pathlib.Path) -> pathlib.Path:
    """A checkpoint's folder, verified."""
    manifest.verify(folder)
    return folder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence deprecation warnings that transformers and TRL cause each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


class Saving:
    """When a training is saved while it goes on: every so many seconds, or less often where that takes long.

    A checkpoint of a whole model may take a minute; all of them together take about `MOST_SAVING` of the time.
    """

    def __init__(self, keep: Callable[[int], None], seconds: float) -> None:
        self.keep, self.seconds = keep, seconds
        self.wait, self.saved, self.asked = seconds, time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self.saved >= self.wait

    def begin(self) -> None:
        """The trainer is about to write a checkpoint."""
        self.asked = time.monotonic()

    def end(self, step: int) -> None:
        """The trainer has written it."""
        self.keep(step)
        self.saved = time.monotonic()
        self.wait = max(self.seconds, (self.saved - self.asked) / MOST_SAVING)


class Watch(TrainerCallback):
    """Follows a trainer for a recorder: its steps, and the objective on tune rows at the recorder's marks."""

    def __init__(
        self,
        recorder: Recorder,
        stop: Callable[[int], bool],
        experiment: Experiment,
        method: Method,
        saving: Saving,
    ) -> None:
        self.recorder, self.stop, self.experiment, self.method = recorder, stop, experiment, method
        self.saving, self.paused = saving, False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock of a step."""
        self.recorder.start_clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock of a step; save the training, or end it here, if that is due or asked for."""
        self.recorder.stop_clock()
        if isinstance(kwargs["model"], PeftModel) and team().parallel != "fsdp":  # whole models take too long
            own = (weight for weight in kwargs["model"].parameters() if weight.requires_grad)
            self.recorder.fingerprint(own, step=state.global_step)
        if state.global_step == state.max_steps:
            return
        if self.stop(state.global_step):
            self.paused = control.should_training_stop = True
        control.should_save = self.paused or self.saving.due()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report a step, and measure on tune rows where a mark stands (after its train loss is known)."""
        logs = kwargs["logs"]
        if "loss" not in logs:
            return
        self.recorder.tokens = int(logs.get("num_tokens", self.recorder.tokens))
        names = {**LOGGED, **self.method.logged}
        values = {name: float(logs[key]) for key, name in names.items() if logs.get(key) is not None}
        self.recorder.step(values, step=state.global_step)
        if state.global_step in self.recorder.marks:
            self.measure(kwargs["model"], state.global_step)
        self.saving.begin()  # what is due is written after the log

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep what the trainer wrote, but not of a training that the method has ended at this step."""
        if self.paused or not control.should_training_stop:
            self.saving.end(state.global_step)

    def measure(self, model: PreTrainedModel, step: int) -> None:
        """Measure the objective on tune rows; process 0 does, but shards of a model only work together."""
        own, data = team(), self.recorder.data
        if own.measures:
            with gathered(model):
                values = self.method.measure(model.eval(), data.tune, experiment=self.experiment, data=data)
            model.train()
        if own.leads:
            self.recorder.tuned(values, step=step)
