"""Loading a base model and its tokenizer, attaching an adapter, and proving that it has an effect."""

import contextlib
import copy
import pathlib
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from tunesmith.config.experiment import AdapterConfig
from tunesmith.errors import EvaluationError, ModelError
from tunesmith.models import pissa
from tunesmith.models.device import Placement
from tunesmith.models.nf4 import keep_layout, nf4
from tunesmith.models.references import LocalModel


def load_tokenizer(model: LocalModel) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; raises `ModelError` when it lacks a chat template or an end mark."""
    tokenizer = AutoTokenizer.from_pretrained(model.path, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise ModelError(f"model.base: {model.reference}: its tokenizer has no chat template; use an instruct model")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model.base: {model.reference}: its tokenizer has no end-of-sequence token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(model: LocalModel, placement: Placement, *, quantise: bool = False) -> PreTrainedModel:
    """The base model on its device, in evaluation mode; NF4 with double quantisation if `quantise`."""
    disable_progress_bar()
    options: dict[str, Any] = {"quantization_config": nf4(placement)} if quantise else {}
    base = load_weights(model.path, placement, **options)
    if model.adapter is not None:
        base = PeftModel.from_pretrained(base, model.adapter).merge_and_unload()
    if quantise:
        keep_layout(base)
    base.config.use_cache = True
    return base


def load_weights(path: pathlib.Path, placement: Placement, **options: Any) -> PreTrainedModel:
    """The weights of a folder on a device, in evaluation mode."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=placement.dtype,
        attn_implementation=placement.attention,
        device_map=placement.device,
        trust_remote_code=False,
        use_safetensors=True,
        **options,
    )
    return model.eval()


def attach_fresh(base: PreTrainedModel, config: AdapterConfig, *, seed: int) -> PeftModel:
    """Attach a new adapter, its A matrices drawn from `seed` and its B matrices zero (PiSSA's are computed)."""
    torch.manual_seed(seed)
    lora = lora_config(config)
    try:
        return pissa.attach(base, lora) if config.init == "pissa" else get_peft_model(base, lora)
    except ValueError as error:
        raise ModelError(f"adapter.targets: {str(error).splitlines()[0]}") from None


def lora_config(config: AdapterConfig) -> LoraConfig:
    """An adapter in PEFT's terms."""
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets,
        use_dora=config.dora,
        use_rslora=config.rslora,
        init_lora_weights=pissa.INIT if config.init == "pissa" else True,
        task_type="CAUSAL_LM",
    )


def full_copy(base: PreTrainedModel, config: AdapterConfig, *, seed: int) -> PreTrainedModel:
    """A copy of the base in float32 whose every weight is trained; the base stays as it is."""
    assert config.kind == "full"  # noqa: S101 - the only kind that trains a copy
    torch.manual_seed(seed)
    model = copy.deepcopy(base).float()
    return model.requires_grad_()


def attach_saved(base: PreTrainedModel, folder: pathlib.Path) -> PreTrainedModel | PeftModel:
    """Attach the adapter saved in `folder`; or load the whole model that full fine-tuning saved there."""
    if not (folder / "adapter_config.json").is_file() and (folder / "config.json").is_file():
        kernel = str(base.config._attn_implementation)
        return load_weights(folder, Placement(str(base.device), base.dtype, kernel, "as the base"))
    return PeftModel.from_pretrained(base, folder).eval()


def release(model: PreTrainedModel | PeftModel) -> None:
    """Be done with a model: its base is bare again; a whole model never was attached to one."""
    if isinstance(model, PeftModel):
        detach(model)


def detach(model: PeftModel) -> PreTrainedModel:
    """Remove the adapter and give the untouched base back, ready for the next one."""
    if pissa.is_attached(model):
        pissa.restore(model)
    base = model.unload()
    base.__dict__.pop("forward", None)  # TRL leaves its patched forward behind
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        base.__dict__.pop(attribute, None)
    return base.eval()


def as_saved(model: PreTrainedModel | PeftModel, base: PreTrainedModel) -> PreTrainedModel | PeftModel:
    """A trained model as it will be loaded again, in place of the one that was trained.

    PiSSA's adapter becomes a plain one on the untouched base, a whole model takes the base's precision.
    """
    if not isinstance(model, PeftModel):
        return model.to(base.dtype)
    if not pissa.is_attached(model):
        return model
    config, matrices = pissa.plain_config(model), pissa.plain_matrices(model)
    detach(model)
    plain = get_peft_model(base, config)
    for name, layer in pissa.lora_layers(plain).items():
        a, b = matrices[name]
        layer.lora_A["default"].weight.data.copy_(a)
        layer.lora_B["default"].weight.data.copy_(b)
    return plain


def network_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The network itself, with the adapter's layers inside it if one is attached."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def trained_weights(model: PreTrainedModel | PeftModel) -> tuple[int, int]:
    """How many weights are trained, and how many there are."""
    if isinstance(model, PeftModel):
        trained, total = model.get_nb_trainable_parameters()
        return int(trained), int(total)
    return model.num_parameters(), model.num_parameters()


def adapter_effect(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    base: PreTrainedModel | None = None,
) -> float:
    """Largest absolute change of a logit on `text` that the adapter causes; `base` is what a whole model began as.

    Raises `EvaluationError` when it is zero or not finite: scores would be the base's, or nonsense.
    """
    inputs = tokenizer(text, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        tuned = model(**inputs).logits.float()
        with model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext():
            plain = (base if base is not None and not isinstance(model, PeftModel) else model)(**inputs).logits.float()
    effect = (tuned - plain).abs().max().item()
    if not effect > 0 or effect == float("inf"):
        raise EvaluationError(f"the adapter changes the logits by {effect}; its scores would not be its own")
    return float(effect)
