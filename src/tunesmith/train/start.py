"""The weights that a training begins with where they are another's, whichever engine saved those."""

import pathlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from tunesmith import manifest
from tunesmith.errors import StartError, TrainingError
from tunesmith.train import checkpoint as checkpoints
from tunesmith.train.checkpoint import Checkpoint, Warn
from tunesmith.train.slots.layout import layout_of
from tunesmith.train.slots.network import Network

ADAPTER, PREFIX = "adapter_model.safetensors", "base_model.model."


@dataclass(frozen=True)
class Start:
    """An adapter after `step` steps of another training, saved in `source`.

    Its matrices have the names under which PEFT saves them, without `PREFIX`.
    """

    source: pathlib.Path
    step: int
    weights: Mapping[str, torch.Tensor]

    def write_to(self, own: Mapping[str, torch.Tensor]) -> None:
        """Give a fresh adapter these weights, in place; raises `StartError` if they do not fit it."""
        if own.keys() != self.weights.keys():
            raise StartError(f"{self.source}: its adapter is one of other layers or of another kind")
        if any(weight.shape != self.weights[name].shape for name, weight in own.items()):
            raise StartError(f"{self.source}: its adapter has another rank")
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(self.weights[name])


def take(source: pathlib.Path, own: pathlib.Path, base: PreTrainedModel, *, warn: Warn = warnings.warn) -> Start:
    """The weights last saved in the folder `source`; once taken, they are kept in `own` and are the same ever after.

    Raises `StartError` when none are saved.
    """
    kept = checkpoints.newest(own, warn=warn) if own.is_dir() else None
    if kept is None:
        start = _newest(source, base)
        checkpoints.save(own, Checkpoint(start.step, dict(start.weights)))
        return start
    return Start(source, kept.step, {n: weight for n, weight in kept.tensors.items() if n != checkpoints.RANDOM})


def _newest(source: pathlib.Path, base: PreTrainedModel) -> Start:
    """The newest sound weights; the folder is another training's, which may be writing, so nothing is set aside."""
    for folder in checkpoints.folders(source):
        try:
            weights = _read(folder, base)
        except (manifest.ManifestError, TrainingError, OSError):  # damaged, or removed meanwhile
            continue
        return Start(source, checkpoints.step_of(folder), weights)
    raise StartError(f"{source}: holds no saved adapter to begin with")


def _read(folder: pathlib.Path, base: PreTrainedModel) -> dict[str, torch.Tensor]:
    if checkpoints.TENSORS in manifest.verify(folder):
        found = checkpoints.read(folder)
        rank = found.record["plan"]["adapter.rank"]
        return layout_of(Network(base).shapes, found.record["layers"], rank).named(found.tensors["weights"])
    return {name.removeprefix(PREFIX): weight for name, weight in load_file(folder / ADAPTER).items()}
