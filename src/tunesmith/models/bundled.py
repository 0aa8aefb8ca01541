"""Models that need no hub: two come from PyPI packages, two are built in code.

Each is written once to the cache folder, with a manifest of SHA-256s that every later load checks.
"""

import contextlib
import functools
import os
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from filelock import FileLock

from tunesmith import manifest
from tunesmith.errors import ModelError
from tunesmith.models import packaged

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def cache_folder() -> pathlib.Path:
    """Where models are kept: `$TUNESMITH_CACHE`, else `tunesmith` in the user's cache folder."""
    root = os.environ.get("TUNESMITH_CACHE")
    if root:
        return pathlib.Path(root)
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tunesmith"


def bundled_path(name: str) -> pathlib.Path:
    """The verified folder of a bundled model, built first if the cache lacks it or holds a damaged one."""
    if name not in BUILDERS:
        raise ModelError(f"bundled:{name}: no such model; bundled are {', '.join(sorted(BUILDERS))}")
    if name in PACKAGED and PACKAGED[name].notice:
        _show(PACKAGED[name].notice)
    target = cache_folder() / "models" / name
    with contextlib.suppress(manifest.ManifestError):
        return _verified(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{name}.lock"):  # a process that builds it too is waited for, not overwritten
        return _verified_or_built(target)


def _verified_or_built(target: pathlib.Path) -> pathlib.Path:
    if target.exists():
        try:
            return _verified(target)
        except manifest.ManifestError as error:
            warnings.warn(f"{error}; building it again", stacklevel=3)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with manifest.writing(target) as folder:
        BUILDERS[target.name](folder)
    return target


@functools.lru_cache(maxsize=8)  # once a process
def _show(notice: str) -> None:
    sys.stderr.write(f"notice: {notice}\n")


@functools.lru_cache(maxsize=8)
def _verified(target: pathlib.Path) -> pathlib.Path:
    manifest.verify(target)
    return target


def build_tiny_llama(folder: pathlib.Path) -> None:
    """Write a two-layer Llama with random weights and a byte-level tokenizer: a test model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_tiny_t5(folder: pathlib.Path) -> None:
    """Write an encoder–decoder with random weights and a byte-level tokenizer without a chat template: a test model."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None  # as those of the T5 family
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer() -> "PreTrainedTokenizerFast":
    """A tokenizer whose words are the 256 bytes and the marks of its chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<|system|>", "<|user|>", "<|assistant|>"]
    ends = {"eos_token": "<|end|>", "pad_token": "<|pad|>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends, extra_special_tokens=marks)
    fast.chat_template = CHAT_TEMPLATE
    return fast


PACKAGED = {"smollm2-135m-instruct": packaged.SMOLLM2, "gemma-3-270m": packaged.GEMMA3_270M}
BUILDERS: dict[str, Callable[[pathlib.Path], None]] = {
    **{name: functools.partial(packaged.build, model) for name, model in PACKAGED.items()},
    "tiny-llama": build_tiny_llama,
    "tiny-t5": build_tiny_t5,
}
