"""Loading a base model and its tokenizer, attaching an adapter, and proving that it has an effect."""

import contextlib
import copy
import json
import pathlib
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from tunesmith.config.experiment import AdapterConfig
from tunesmith.errors import EvaluationError, ModelError
from tunesmith.models import pissa
from tunesmith.models.architecture import PLAIN_TEMPLATE, architecture_in, architecture_of, read
from tunesmith.models.device import Placement
from tunesmith.models.nf4 import keep_layout, nf4
from tunesmith.models.references import LocalModel
from tunesmith.models.reward import HEAD, is_reward_model, with_head

ADAPTER_CONFIG = "adapter_config.json"


def load_tokenizer(model: LocalModel) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; raises `ModelError` when it lacks a chat template or an end mark.

    That of an encoder–decoder gets `PLAIN_TEMPLATE` where it has none.
    """
    tokenizer = AutoTokenizer.from_pretrained(model.path, trust_remote_code=False)
    whole = (model.path / "config.json").is_file()  # a package holds a tokenizer without its model
    if not tokenizer.chat_template and whole and architecture_in(model.path).separate:
        tokenizer.chat_template = PLAIN_TEMPLATE
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
    if quantise:
        keep_layout(base)
    base.config.use_cache = True
    return base


def load_weights(path: pathlib.Path, placement: Placement, **options: Any) -> PreTrainedModel:
    """The weights of a folder on a device, in evaluation mode."""
    model: PreTrainedModel = architecture_in(path).auto.from_pretrained(
        path,
        dtype=placement.dtype,
        attn_implementation=placement.attention,
        device_map=placement.device,
        trust_remote_code=False,
        use_safetensors=True,
        **options,
    )
    return model.eval()


def attach_fresh(
    base: PreTrainedModel, config: AdapterConfig, *, seed: int, parent: pathlib.Path | None = None
) -> PeftModel:
    """Attach a new adapter, its A matrices drawn from `seed` and its B matrices zero (PiSSA's are computed).

    With `parent`, the folder of a saved one, it goes on from that; raises `ModelError` if `config` has not its rank,
    scale and layers.
    """
    torch.manual_seed(seed)
    rates = is_reward_model(base)
    if config.init == "pissa" and (parent is not None or rates):
        raise ModelError("adapter.init: pissa begins a language model's adapter anew; use default here")
    lora = lora_config(config, task_type="SEQ_CLS" if rates else architecture_of(base.config).task_type)
    try:
        model = pissa.attach(base, lora) if config.init == "pissa" else get_peft_model(base, lora)
    except ValueError as error:
        raise ModelError(f"adapter.targets: {str(error).splitlines()[0]}") from None
    if parent is not None:
        continue_from(model, parent)
    return model


def lora_config(config: AdapterConfig, *, task_type: str = "CAUSAL_LM") -> LoraConfig:
    """An adapter in PEFT's terms; one that rates replies (`SEQ_CLS`) is saved with its head."""
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets,
        use_dora=config.dora,
        use_rslora=config.rslora,
        init_lora_weights=pissa.INIT if config.init == "pissa" else True,
        task_type=task_type,
        modules_to_save=[HEAD] if task_type == "SEQ_CLS" else None,
    )


def continue_from(model: PeftModel, parent: pathlib.Path) -> None:
    """Give a fresh adapter the weights of a saved one; raises `ModelError` where they do not fit."""
    saved, fresh = read_config(parent), model.peft_config["default"]
    for key, name in (("r", "rank"), ("lora_alpha", "alpha"), ("use_dora", "dora"), ("use_rslora", "rslora")):
        if saved[key] != getattr(fresh, key):
            raise ModelError(f"adapter.{name}: is not the parent's; set it to {saved[key]} to go on from it")
    found = set_peft_model_state_dict(model, load_file(parent / "adapter_model.safetensors"))
    missing = [name for name in found.missing_keys if ".lora_" in name]
    if missing or found.unexpected_keys:
        raise ModelError(f"adapter.targets: are not the parent's; set them to {saved['target_modules']}")


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """The configuration of a saved adapter; raises `ModelError` where there is none."""
    try:
        config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(f"{folder}: holds no adapter; a whole model is named by its folder instead") from None
    return config


def full_copy(base: PreTrainedModel, config: AdapterConfig, *, seed: int) -> PreTrainedModel:
    """A copy of the base in float32 whose every weight is trained; the base stays as it is."""
    assert config.kind == "full"  # noqa: S101 - the only kind that trains a copy
    torch.manual_seed(seed)
    model = copy.deepcopy(base).float()
    return model.requires_grad_()


def attach_saved(base: PreTrainedModel, folder: pathlib.Path) -> PreTrainedModel | PeftModel:
    """Attach the adapter saved in `folder`, below a reward head if it has one; or load the whole model saved there."""
    if not (folder / ADAPTER_CONFIG).is_file() and (folder / "config.json").is_file():
        kernel = str(base.config._attn_implementation)
        return load_weights(folder, Placement(str(base.device), base.dtype, kernel, "as the base"))
    if read_config(folder).get("task_type") == "SEQ_CLS":
        base = with_head(base, seed=0)
    return PeftModel.from_pretrained(base, folder).eval()


def save(model: PreTrainedModel | PeftModel, folder: pathlib.Path) -> None:
    """Write an adapter as PEFT does, or a model tuned in full as transformers does.

    PEFT writes the names of a set in the order of this process's hashes; sorted, equal adapters are equal files.
    """
    own = {"selected_adapters": ["default"]} if isinstance(model, PeftModel) else {}  # no reference beside it
    model.save_pretrained(folder, safe_serialization=True, **own)
    path = folder / ADAPTER_CONFIG
    if path.is_file():
        config = read_config(folder)
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()
        path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


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
        for weight in model.parameters():  # not its buffers: rotary frequencies stay float32 in a loaded model
            weight.data = weight.data.to(base.dtype)
        return model
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
    """Largest absolute change of a logit (or of a reward) on `text` by the adapter; a whole model began as `base`.

    Raises `EvaluationError` when it is zero or not finite: scores would be the base's, or nonsense.
    """
    inputs = tokenizer(text, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        tuned = read(model, inputs)
        with model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext():
            plain = read(base if base is not None and not isinstance(model, PeftModel) else model, inputs)
    effect = (tuned - plain).abs().max().item()
    if not effect > 0 or effect == float("inf"):
        raise EvaluationError(f"the adapter changes the logits by {effect}; its scores would not be its own")
    return float(effect)
