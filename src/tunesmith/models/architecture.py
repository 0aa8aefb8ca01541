"""What differs between decoder-only and encoder–decoder models, decided by a model's configuration and only here."""

import functools
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig

from tunesmith.config.experiment import Experiment
from tunesmith.errors import ModelError

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""The chat template of an encoder–decoder whose tokenizer has none: a line `role: text` for each turn."""


@dataclass(frozen=True)
class Architecture:
    """A kind of language model, in the terms of the libraries that load, adapt and score it."""

    name: Literal["decoder-only", "encoder–decoder"]
    auto: Any
    """The class of transformers that loads it."""
    task_type: str
    """PEFT's."""
    backend: Literal["causal", "seq2seq"]
    """lm-eval's."""

    @property
    def separate(self) -> bool:
        """Whether prompt and reply are read apart, the one by an encoder, the other by a decoder."""
        return self.backend == "seq2seq"


DECODER_ONLY = Architecture("decoder-only", AutoModelForCausalLM, "CAUSAL_LM", "causal")
ENCODER_DECODER = Architecture("encoder–decoder", AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM", "seq2seq")


def architecture_of(config: PretrainedConfig) -> Architecture:
    """The architecture that a configuration describes."""
    return ENCODER_DECODER if config.is_encoder_decoder else DECODER_ONLY


@functools.lru_cache(maxsize=8)
def architecture_in(folder: pathlib.Path) -> Architecture:
    """The architecture of the model in a folder."""
    return architecture_of(AutoConfig.from_pretrained(folder, trust_remote_code=False))


def check_method(architecture: Architecture, experiment: Experiment) -> None:
    """Refuse a method that does not train this architecture, with a `ModelError`."""
    kind = experiment.method.kind
    if architecture is ENCODER_DECODER and kind != "sft":
        raise ModelError(
            f"{experiment.where('method', 'kind')}: {kind} trains decoder-only models, and model.base "
            f"{experiment.model.base} is an encoder–decoder; use method sft, or another base"
        )


def read(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What a model makes of tokenised text that all its layers read: of an encoder–decoder both parts read it.

    Logits [rows, tokens, vocabulary], in float32.
    """
    both = {"decoder_input_ids": inputs["input_ids"]} if architecture_of(model.config).separate else {}
    logits: torch.Tensor = model(**inputs, **both).logits
    return logits.float()
