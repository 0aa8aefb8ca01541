"""PiSSA (Meng et al., 2024): an adapter that begins with the principal components of the base's weights.

It takes these components out of the base while it is trained, W = W' + B₀A₀, so the base must get its weights back
afterwards, and what was learnt, BA − B₀A₀, is kept as a plain adapter of twice the rank: [B, −B₀] [A; A₀].
"""

import copy
import math
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

INIT = "pissa_niter_16"  # randomised SVD with so many iterations; PEFT's exact one takes minutes for a small model
START = "_pissa_start"


@dataclass(frozen=True)
class Start:
    """What was before the training: the base's own weights, and the adapter's first matrices, by layer."""

    weights: dict[str, torch.Tensor]
    a: dict[str, torch.Tensor]
    b: dict[str, torch.Tensor]


def attach(base: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Attach a PiSSA adapter; the base holds the residual weights until `restore`."""
    weights = {name: module.weight.data for name, module in base.named_modules() if hasattr(module, "weight")}
    model = get_peft_model(base, config)
    layers = lora_layers(model)
    start = Start(
        weights={name: weights[name] for name in layers},
        a={name: layer.lora_A["default"].weight.data.clone() for name, layer in layers.items()},
        b={name: layer.lora_B["default"].weight.data.clone() for name, layer in layers.items()},
    )
    setattr(model, START, start)
    return model


def is_attached(model: torch.nn.Module) -> bool:
    """Whether a model has a PiSSA adapter attached."""
    return hasattr(model, START)


def restore(model: PeftModel) -> None:
    """Give the base its own weights back, the very tensors that it had."""
    start: Start = getattr(model, START)
    for name, layer in lora_layers(model).items():
        layer.get_base_layer().weight.data = start.weights[name]


def plain_config(model: PeftModel) -> LoraConfig:
    """The configuration of the plain adapter: twice the rank, the same scaling."""
    config = copy.deepcopy(model.peft_config["default"])
    config.init_lora_weights = True
    config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2
    config.r *= 2
    return config


def plain_matrices(model: PeftModel) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and B of the plain adapter by layer: [2 · rank, inputs] and [outputs, 2 · rank]."""
    start: Start = getattr(model, START)
    matrices = {}
    for name, layer in lora_layers(model).items():
        a, b = layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
        matrices[name] = (torch.cat([a, start.a[name]]), torch.cat([b, -start.b[name]], dim=1))
    return matrices


def lora_layers(model: PeftModel) -> dict[str, LoraLayer]:
    """The layers of a model that have an adapter, by their names in the base."""
    modules = model.get_base_model().named_modules()
    return {name: module for name, module in modules if isinstance(module, LoraLayer)}
