"""Train one adapter on a base that stays loaded: through TRL, or in the slots engine where that covers it."""

import contextlib
import pathlib
import time
from collections.abc import Iterator

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith import manifest
from tunesmith.config.experiment import Experiment
from tunesmith.errors import TrainingError
from tunesmith.models.device import lacking_memory
from tunesmith.models.loading import save
from tunesmith.models.reward import with_head
from tunesmith.records import TrainedRun
from tunesmith.train.checkpoint import room_for
from tunesmith.train.memory import out_of_memory_text
from tunesmith.train.recorder import Recorder
from tunesmith.train.slots.coverage import covers
from tunesmith.train.slots.engine import Engine
from tunesmith.train.slots.training import SlotTraining
from tunesmith.train.trl import TrlTraining

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
) -> Iterator[tuple[PreTrainedModel, TrainedRun]]:
    """Train an adapter on the recorder's rows, save it in `folder`, and give the model with it attached.

    The base is bare again afterwards. With `slots`, the slots engine trains what it covers; TRL trains the
    rest, and the record's `engine` says why. Raises `TrainingError` for a non-finite loss or when memory
    runs out.
    """
    reason = covers(base, experiment) if slots else ""
    if reason is None:
        way = _in_slot(base, experiment, recorder)
    else:
        training = TrlTraining(base, tokenizer, experiment, recorder, folder)
        recorder.engine = f"{training.method.engine}: {reason}" if reason else training.method.engine
        way = training.run()
    with out_of_memory_explained(experiment, base), way as model:
        yield model, save_adapter(model, recorder, folder)


def train_beside(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    experiment: Experiment,
    recorder: Recorder,
    *,
    folder: pathlib.Path,
) -> None:
    """Take part in a training that another process of the team leads, and keep nothing of it."""
    with out_of_memory_explained(experiment, base), TrlTraining(base, tokenizer, experiment, recorder, folder).run():
        pass


def save_adapter(model: PreTrainedModel, recorder: Recorder, folder: pathlib.Path) -> TrainedRun:
    """Save a trained adapter in `folder`, whole or not at all; returns the record of its training."""
    target = folder / "adapter"
    with room_for(target), manifest.writing(target) as aside:
        save(model, aside)
    return recorder.finish(model, target)


def out_of_memory_explained(experiment: Experiment, base: PreTrainedModel) -> contextlib.AbstractContextManager[None]:
    """Turn a lack of memory into a `TrainingError` with its remedies."""
    return lacking_memory(lambda: TrainingError(out_of_memory_text(experiment, base)))


@contextlib.contextmanager
def _in_slot(base: PreTrainedModel, experiment: Experiment, recorder: Recorder) -> Iterator[PreTrainedModel]:
    training = SlotTraining(Engine(base), SLOT, experiment, recorder)
    while training.step < training.steps:
        began = time.perf_counter()
        result = training.engine.step()[SLOT]
        training.take(result, seconds=time.perf_counter() - began)
    with training.attached() as model:
        yield model


def start_of(base: PreTrainedModel, experiment: Experiment) -> PreTrainedModel:
    """What an experiment trains an adapter on: the base, or the base's layers under a reward head."""
    return with_head(base, seed=experiment.seed) if experiment.method.kind == "reward" else base
