"""FSDP: weights in shards while they are trained, whole before and after. Needs CUDA devices."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from tunesmith.train.team import Team

ARGUMENTS: dict[str, Any] = {
    "fsdp": True,
    "fsdp_config": {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        "state_dict_type": "FULL_STATE_DICT",
    },
}
"""FSDP2 in the terms of transformers' `TrainingArguments`: a shard for each block, and one for the rest."""


def set_aside(base: PreTrainedModel, own: Team) -> PreTrainedModel:
    """A copy of a base on its device, to be sharded where it lies; the base itself waits in the machine's memory.

    Process 0 alone will need it again; the others drop its weights.
    """
    device = base.device
    twin: PreTrainedModel = copy.deepcopy(base.to("cpu")).to(device)
    if not own.leads:
        base.to("meta")
    return twin


def whole_state(trainer: Any) -> dict[str, torch.Tensor]:
    """All weights of a sharded model under their names, with process 0; all processes must ask for it."""
    state: dict[str, torch.Tensor] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return state


@contextlib.contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Give each process what lies outside the blocks whole inside the block, so that it can be called directly."""
    if not hasattr(model, "unshard"):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()
