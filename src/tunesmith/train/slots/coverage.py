"""Which trainings the slots engine covers. All others go through TRL, and the reason says why."""

import re
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from tunesmith.config.experiment import AdapterConfig, Experiment
from tunesmith.models.prefix import scales_logits
from tunesmith.train.slots.layout import MEMBERS
from tunesmith.train.slots.objective import OBJECTIVES

ARCHITECTURES = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"}
ROTARY = {"default", "linear", "llama3", "yarn"}  # others change their frequencies with the row's length
PROJECTIONS = {member for members in MEMBERS.values() for member in members}


def covers(model: PreTrainedModel, experiment: Experiment) -> str | None:
    """Why the engine does not train this experiment on this base; None when it does."""
    if experiment.method.kind not in OBJECTIVES:
        return f"method.kind {experiment.method.kind}"
    if experiment.method.gradient_checkpointing:
        return "method.gradient_checkpointing"
    return covers_model(model) or covers_adapter(model, experiment.adapter)


def covers_model(model: PreTrainedModel) -> str | None:
    """Why the engine does not run this base; None when it does."""
    name, config = type(model).__name__, model.config
    if name not in ARCHITECTURES:
        return f"{name} is not one of {', '.join(sorted(ARCHITECTURES))}"
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    rotary = model.model.rotary_emb.rope_type
    dropout = getattr(config, "attention_dropout", 0.0)
    windowed = name == "MistralForCausalLM" and config.sliding_window
    reasons = {
        "the base is quantised": getattr(model, "is_quantized", False),
        f"its activation is {config.hidden_act}": config.hidden_act != "silu",
        "its logits are scaled": scales_logits(model),
        f"its rotary positions are of kind {rotary}": rotary not in ROTARY,
        "it attends over a sliding window": windowed or layers != {"full_attention"},
        f"its attention has a dropout of {dropout}": dropout,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def covers_adapter(model: PreTrainedModel, adapter: AdapterConfig) -> str | None:
    """Why the engine does not train this adapter; None when it does."""
    reasons = {
        f"adapter.kind {adapter.kind}": adapter.kind != "lora",
        f"adapter.dropout {adapter.dropout:g}": adapter.dropout > 0,
        "adapter.dora": adapter.dora,
        f"adapter.init {adapter.init}": adapter.init != "default",
        "adapter.lora_plus_ratio": adapter.lora_plus_ratio is not None,
    }
    for reason, holds in reasons.items():
        if holds:
            return reason
    names = targeted(model, adapter.targets)
    outside = [name for name in names if not is_projection(name)]
    if outside or not names:
        return f"adapter.targets reach {outside[0] if outside else 'nothing'}, not only the blocks' linear layers"
    return None


def is_projection(name: str) -> bool:
    """Whether a module's name is that of a block's linear layer."""
    parts = name.split(".", 3)
    return parts[:2] == ["model", "layers"] and len(parts) == 4 and parts[3] in PROJECTIONS


def targeted(model: PreTrainedModel, targets: str | Sequence[str]) -> list[str]:
    """Names of the modules that PEFT gives an adapter: a list holds ends of names, a text is a pattern of them."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if targets == "all-linear":
        output = model.get_output_embeddings()
        return [name for name in linear if model.get_submodule(name) is not output]
    names = [name for name, _ in model.named_modules() if name]
    if isinstance(targets, str):
        return [name for name in names if re.fullmatch(targets, name)]
    return [name for name in names if any(name == end or name.endswith(f".{end}") for end in targets)]
