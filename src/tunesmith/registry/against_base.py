"""Does an adapter fit its base, and does it change what the base says? Needs torch; the base must be at hand."""

import pathlib
import time
import warnings
from dataclasses import dataclass

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import AutoConfig

from tunesmith.config.experiment import ModelConfig
from tunesmith.errors import EvaluationError, RegistryError
from tunesmith.models.architecture import architecture_of
from tunesmith.models.device import place
from tunesmith.models.loading import adapter_effect, attach_saved, load_base, load_tokenizer
from tunesmith.models.references import LocalModel, resolve
from tunesmith.registry import tensors
from tunesmith.registry.verify import WEIGHTS, on_quantised_base, read_json

PROBE = [{"role": "user", "content": "When is my bill due?"}]


@dataclass(frozen=True)
class Loaded:
    """An adapter on its base, the seconds that loading took, and the largest change of a logit it causes."""

    model: PeftModel
    seconds: float
    effect: float


def check_base(package: pathlib.Path) -> LocalModel:
    """The base that a package names; raises `RegistryError` when its digest is another."""
    stored = read_json(package, "base.json")
    base = resolve(stored["reference"], revision=stored["revision"])
    if base.sha256 != stored["sha256"]:
        raise RegistryError(f"base.json: {stored['reference']} is not the base that this adapter was trained on")
    return base


def check_shapes(package: pathlib.Path, base: LocalModel) -> None:
    """The adapter has exactly the matrices that its configuration gives this base, in their shapes."""
    expected, found = expected_shapes(package, base), tensors.shapes(package, WEIGHTS)
    for key in sorted({*expected, *found}):
        if key not in found:
            raise RegistryError(f"{WEIGHTS}: lacks {key}, which adapter_config.json asks for")
        if key not in expected:
            raise RegistryError(f"{WEIGHTS}: holds {key}, which adapter_config.json does not ask for")
        if expected[key] != found[key]:
            raise RegistryError(f"{WEIGHTS}: {key} has the shape {found[key]}; its base needs {expected[key]}")


def expected_shapes(package: pathlib.Path, base: LocalModel) -> dict[str, tuple[int, ...]]:
    """Shape by name of every matrix of an adapter, by building it on the base without any weights."""
    config = AutoConfig.from_pretrained(base.path, trust_remote_code=False)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = architecture_of(config).auto.from_config(config)
        try:
            tuned = get_peft_model(model, PeftConfig.from_pretrained(package / "adapter"), low_cpu_mem_usage=True)
        except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise RegistryError(f"adapter/adapter_config.json: does not fit its base: {reason}") from None
    state = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    return {key: tuple(value.shape) for key, value in state.items()}


def load(package: pathlib.Path) -> Loaded:
    """Load a package as serving does, and measure its effect; raises `RegistryError` when it has none."""
    base = check_base(package)
    check_shapes(package, base)
    began = time.perf_counter()
    tokenizer = load_tokenizer(LocalModel(base.reference, package / "tokenizer", base.sha256))
    placement, quantise = place(ModelConfig(base=base.reference)), on_quantised_base(package)
    model = attach_saved(load_base(base, placement, quantise=quantise), package / "adapter")
    seconds = time.perf_counter() - began
    text = str(tokenizer.apply_chat_template(PROBE, tokenize=False, add_generation_prompt=True))
    try:
        return Loaded(model, seconds, adapter_effect(model, tokenizer, text))
    except EvaluationError as error:
        raise RegistryError(f"{WEIGHTS}: {error}") from None
