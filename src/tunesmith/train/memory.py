"""How much memory a training needs, estimated, and what would make it need less."""

import torch
from transformers import PretrainedConfig, PreTrainedModel

from tunesmith.config import overrides
from tunesmith.config.experiment import Experiment
from tunesmith.errors import ConfigError
from tunesmith.models.device import free_memory_mb, place
from tunesmith.models.packed import COPIES, may_pack
from tunesmith.train.slots.coverage import targeted
from tunesmith.train.team import team

ADAM_BYTES = 16  # float32 weight, gradient and two moments of each trained weight
NF4_BYTES = 0.55
ACTIVATIONS_PER_WIDTH = 34  # values kept per token, layer and unit of width (Korthikanti et al., 2022)


def estimate_memory(
    experiment: Experiment, config: PretrainedConfig, *, weights: tuple[int, int], row: tuple[int, int]
) -> float:
    """Estimated peak bytes: weights and their laid-out copies, adapter with its optimiser, activations and logits.

    Activations and logits are those of a micro-batch.

    `weights` counts those of the base and those trained, `row` the tokens of the longest row and those in the loss.
    """
    (parameters, trainable), (longest, supervised), method = weights, row, experiment.method
    placement = place(experiment.model)
    itemsize = placement.dtype.itemsize
    width = NF4_BYTES if experiment.adapter.kind == "qlora" else itemsize
    copies = COPIES * parameters * itemsize if experiment.adapter.kind == "lora" else 0
    laid_out = copies if may_pack(copies, torch.device(placement.device), placement.dtype) else 0
    batch = team().rows_at_once(method)
    layers = 1 if method.gradient_checkpointing else config.num_hidden_layers
    activations = batch * longest * config.hidden_size * layers * ACTIVATIONS_PER_WIDTH * itemsize / 2
    logits = 3 * batch * supervised * config.vocab_size * 4
    return float(parameters * width + laid_out + trainable * ADAM_BYTES + activations + logits)


def out_of_memory_text(experiment: Experiment, base: PreTrainedModel) -> str:
    """What a training that ran out of memory needs at most, what there is, and what each remedy would need.

    Rows are taken to be `model.max_length` tokens long, which bounds the need from above.
    """
    needed, method = _at_most_mb(experiment, base), experiment.method
    there = _whole_memory_mb(base.device)
    micro = team().rows_at_once(method)
    changes: list[dict[str, object]] = [{"method.micro_batch": micro // 2}] if micro > 1 and not micro % 2 else []
    changes += [] if method.gradient_checkpointing else [{"method.gradient_checkpointing": True}]
    changes += [] if experiment.adapter.kind == "qlora" else [{"adapter.kind": "qlora"}]
    remedies = [text for change in changes if (text := _remedy(experiment, base, change))]
    return (
        f"out of memory with {micro} rows a pass: up to about {needed:.0f} MiB are needed and {there:.0f} are there; "
        f"set {', or '.join(remedies) if remedies else 'a smaller model.max_length'}"
    )


def _remedy(experiment: Experiment, base: PreTrainedModel, change: dict[str, object]) -> str | None:
    """A change in words with its need; None if the experiment does not allow it."""
    ((name, value),) = change.items()
    try:
        changed = overrides.apply(experiment, change)
    except ConfigError:
        return None
    return f"{name} {str(value).lower()} (about {_at_most_mb(changed, base):.0f} MiB)"


def _at_most_mb(experiment: Experiment, base: PreTrainedModel) -> float:
    parameters, adapter = base.num_parameters(), experiment.adapter
    layers = [base.get_submodule(name) for name in targeted(base, adapter.targets)]
    sizes = [module.in_features + module.out_features for module in layers if isinstance(module, torch.nn.Linear)]
    trainable = parameters if adapter.kind == "full" else adapter.rank * sum(sizes)
    longest = experiment.model.max_length
    config = base.config.get_text_config()
    return estimate_memory(experiment, config, weights=(parameters, trainable), row=(longest, longest)) / 2**20


def _whole_memory_mb(device: torch.device) -> float:
    """Memory of a CUDA device, else what this machine has free, in MiB."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1] / 2**20
    return free_memory_mb(device)
