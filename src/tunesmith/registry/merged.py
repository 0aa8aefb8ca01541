"""Weights with the adapter merged in, for serving without the base; accepted only when they say the same."""

import pathlib

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.config.experiment import ModelConfig
from tunesmith.errors import RegistryError
from tunesmith.models.architecture import read
from tunesmith.models.device import Placement, place
from tunesmith.models.loading import attach_saved, detach, load_base, load_tokenizer, load_weights
from tunesmith.models.references import LocalModel
from tunesmith.registry.against_base import PROBE, check_base
from tunesmith.registry.verify import on_quantised_base

FOLDER = "merged"
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # of the largest logit


def add(package: pathlib.Path) -> None:
    """Write merged weights into a package that is being built; raises `RegistryError` when parity fails."""
    base = check_base(package)
    placement = place(ModelConfig(base=base.reference))
    tokenizer = load_tokenizer(LocalModel(base.reference, package / "tokenizer", base.sha256))
    check_template(tokenizer, load_tokenizer(base))
    quantise = on_quantised_base(package)
    model = attach_saved(load_base(base, placement, quantise=quantise), package / "adapter")
    adapted = logits(model, tokenizer)
    if quantise:  # merging into 4-bit weights would round the adapter away
        model = attach_saved(detach(model).dequantize(), package / "adapter")
    model.merge_and_unload().save_pretrained(package / FOLDER)
    check_parity(adapted, logits(load(package, placement), tokenizer), TOLERANCE[placement.dtype])


def load(package: pathlib.Path, placement: Placement) -> PreTrainedModel:
    """The merged model of a package."""
    return load_weights(package / FOLDER, placement)


def logits(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Logits of the probe, of shape [positions, vocabulary]."""
    text = tokenizer.apply_chat_template(PROBE, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(text, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        return read(model, inputs)[0]


def check_parity(adapted: torch.Tensor, merged: torch.Tensor, tolerance: float) -> None:
    """Refuse merged weights whose logits differ from the adapter's by more than a share of the largest one."""
    error = ((adapted - merged).abs().max() / adapted.abs().max()).item()
    if not error <= tolerance:
        raise RegistryError(
            f"{FOLDER}: the merged weights change the logits by {error:.2%} of the largest, more than "
            f"{tolerance:.2%}; use package: adapter"
        )


def check_template(packaged: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase) -> None:
    """Refuse a package whose tokenizer renders a conversation otherwise than the base's."""
    messages = [*PROBE, {"role": "assistant", "content": "In 21 days."}]
    if packaged.apply_chat_template(messages, tokenize=False) != own.apply_chat_template(messages, tokenize=False):
        raise RegistryError("tokenizer: its chat template renders a conversation otherwise than the base's")
