"""One training through a TRL trainer, which can stop at a share of it and go on later."""

import contextlib
import json
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from tunesmith import manifest
from tunesmith.config.experiment import Experiment
from tunesmith.models.loading import as_saved, attach_fresh, full_copy, network_of, release, trained_weights
from tunesmith.train import checkpoint as checkpoints
from tunesmith.train.loss import mean_loss
from tunesmith.train.optimiser import prepare
from tunesmith.train.order import steps_per_epoch
from tunesmith.train.recorder import Recorder
from tunesmith.train.sft import build_trainer

LOGGED = {"loss": "train/loss", "learning_rate": "train/learning_rate", "grad_norm": "train/grad_norm"}
RECORD = "recorder.json"


class TrlTraining:
    """A training by TRL, fresh or from its newest checkpoint in `folder`."""

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        experiment: Experiment,
        recorder: Recorder,
        folder: pathlib.Path,
    ) -> None:
        self.base, self.tokenizer, self.experiment, self.recorder = base, tokenizer, experiment, recorder
        self.folder = folder
        self.found = checkpoints.newest_by(_read, folder) if folder.is_dir() else None
        if self.found:
            recorder.restore(json.loads((self.found / RECORD).read_text(encoding="utf-8")))
        self.step = recorder.curves["train/loss"][-1][0] if self.found else 0
        method = experiment.method
        steps = steps_per_epoch(len(recorder.data.train), method.batch_size) * method.epochs
        recorder.begin(steps, step=self.step)

    @contextlib.contextmanager
    def run(self, stop: Callable[[int], bool] = lambda _: False) -> Iterator[PreTrainedModel]:
        """Train until the end or until `stop`, asked after each step, says so; the block has the adapter attached.

        Stopped before its end, the training is saved below the folder.
        """
        begin = full_copy if self.experiment.adapter.kind == "full" else attach_fresh
        model = begin(self.base, self.experiment.adapter, seed=self.experiment.seed)
        try:
            watch = Watch(self.recorder, stop, pad=self.tokenizer.pad_token_id, batch_size=self._scored_at_once)
            with _quiet():
                trainer = build_trainer(
                    self.experiment,
                    model,
                    self.tokenizer,
                    self.recorder.data.train,
                    folder=self.folder / "trl",
                    callbacks=[watch],
                )
                trainer.remove_callback(PrinterCallback)
                prepare(trainer, self.experiment)
                trainer.train(resume_from_checkpoint=str(self.found) if self.found else None)
            if trainer.state.global_step < trainer.state.max_steps:
                self._keep(self.folder / "trl" / f"checkpoint-{trainer.state.global_step}")
            else:
                self.recorder.weights = trained_weights(model)
                model = as_saved(model, self.base)
            yield model.eval()
        finally:
            release(model)

    @property
    def _scored_at_once(self) -> int:
        return self.experiment.evaluation.batch_size

    def _keep(self, written: pathlib.Path) -> None:
        """Turn what the trainer wrote into a checkpoint that is whole or absent."""
        step = int(written.name.rpartition("-")[2])
        target = checkpoints.folder_of(self.folder, step)
        with checkpoints.room_for(target), manifest.writing(target) as aside:
            shutil.copytree(written, aside, dirs_exist_ok=True)
            (aside / RECORD).write_text(json.dumps(self.recorder.state()) + "\n", encoding="utf-8")
        shutil.rmtree(written)
        checkpoints.keep_newest(self.folder)


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


class Watch(TrainerCallback):
    """Follows a TRL training for a recorder: its steps, and the tune loss at the recorder's marks."""

    def __init__(self, recorder: Recorder, stop: Callable[[int], bool], *, pad: int, batch_size: int) -> None:
        self.recorder, self.stop, self.pad, self.batch_size = recorder, stop, pad, batch_size

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock of a step."""
        self.recorder.start_clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock of a step; end the training here if that is asked for."""
        self.recorder.stop_clock()
        if state.global_step < state.max_steps and self.stop(state.global_step):
            control.should_save = control.should_training_stop = True

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

    def _measure(self, model: PreTrainedModel, step: int) -> None:
        model.eval()
        loss = mean_loss(network_of(model), self.recorder.data.tune, pad=self.pad, batch_size=self.batch_size)
        model.train()
        self.recorder.tune_loss(loss, step=step)
