"""Loading a base model and its tokenizer, attaching an adapter, and proving that it has an effect."""

import pathlib
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from tunesmith.config.experiment import AdapterConfig
from tunesmith.errors import EvaluationError, ModelError
from tunesmith.models.device import Placement
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
    base = AutoModelForCausalLM.from_pretrained(
        model.path,
        dtype=placement.dtype,
        attn_implementation=placement.attention,
        device_map=placement.device,
        trust_remote_code=False,
        use_safetensors=True,
        **options,
    )
    if model.adapter is not None:
        base = PeftModel.from_pretrained(base, model.adapter).merge_and_unload()
    base.config.use_cache = True
    return base.eval()


def nf4(placement: Placement) -> Any:
    """The quantisation of QLoRA; raises `ModelError` when bitsandbytes is not installed."""
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ModelError("adapter.kind: qlora needs bitsandbytes; run: pip install bitsandbytes") from None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=placement.dtype,
    )


def attach_fresh(base: PreTrainedModel, config: AdapterConfig, *, seed: int) -> PeftModel:
    """Attach a new adapter, its A matrices drawn from `seed` and its B matrices zero."""
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base, lora)
    except ValueError as error:
        raise ModelError(f"adapter.targets: {str(error).splitlines()[0]}") from None


def attach_saved(base: PreTrainedModel, folder: pathlib.Path) -> PeftModel:
    """Attach the adapter saved in `folder`."""
    return PeftModel.from_pretrained(base, folder).eval()


def detach(model: PeftModel) -> PreTrainedModel:
    """Remove the adapter and give the untouched base back, ready for the next one."""
    base = model.unload()
    base.__dict__.pop("forward", None)  # TRL leaves its patched forward behind
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        base.__dict__.pop(attribute, None)
    return base.eval()


def adapter_effect(model: PeftModel, tokenizer: PreTrainedTokenizerBase, text: str) -> float:
    """Largest absolute change of a logit that the adapter causes on `text`.

    Raises `EvaluationError` when it is zero or not finite: scores would be the base's, or nonsense.
    """
    inputs = tokenizer(text, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        tuned = model(**inputs).logits.float()
        with model.disable_adapter():
            base = model(**inputs).logits.float()
    effect = (tuned - base).abs().max().item()
    if not effect > 0 or effect == float("inf"):
        raise EvaluationError(f"the adapter changes the logits by {effect}; its scores would not be its own")
    return float(effect)
