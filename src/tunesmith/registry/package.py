"""A package: everything that a tuned model is, but for its base, which is pinned by digest."""

import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from tunesmith import manifest
from tunesmith.errors import RegistryError
from tunesmith.models.references import LocalModel
from tunesmith.registry.verify import on_quantised_base, verify_package

REQUIREMENTS = ("mlflow", "torch", "transformers", "peft", "safetensors", "gguf", "pydantic", "pyyaml", "pandas")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Contents:
    """What goes into a package besides the adapter."""

    base: LocalModel
    experiment: Mapping[str, Any]
    data: Mapping[str, str]
    max_new_tokens: int


def build_package(
    target: pathlib.Path,
    adapter: pathlib.Path,
    contents: Contents,
    *,
    finish: Callable[[pathlib.Path], None] | None = None,
) -> pathlib.Path:
    """Write a package to `target`, with its manifest of SHA-256s.

    `finish` may add files before the manifest is written. Raises `RegistryError` if files lack or do not verify.
    """
    with manifest.writing(target) as folder:
        (folder / "adapter").mkdir()
        for name in ADAPTER_FILES:
            if name == "adapter_config.json" and (adapter / "config.json").is_file():
                raise RegistryError(
                    "adapter.kind: full fine-tuning saves a whole model, and the registry holds adapters; download it "
                    "from its run and use its folder as model.base"
                )
            if not (adapter / name).is_file():
                raise RegistryError(f"{adapter / name}: missing; the run's adapter is incomplete")
            shutil.copy(adapter / name, folder / "adapter" / name)
        _name_base(folder / "adapter" / "adapter_config.json", contents.base)
        _copy_tokenizer(contents.base, folder / "tokenizer")
        base = {
            "reference": contents.base.reference,
            "revision": contents.base.revision,
            "sha256": contents.base.sha256,
        }
        _write(folder / "base.json", base)
        _write(folder / "experiment.json", contents.experiment)
        _write(folder / "data.json", contents.data)
        _write(folder / "generation.json", {"max_new_tokens": contents.max_new_tokens, "do_sample": False})
        needed = requirements(quantised=on_quantised_base(folder))
        (folder / "requirements.txt").write_text("\n".join(needed) + "\n", encoding="utf-8")
        if finish is not None:
            finish(folder)
    verify_package(target)
    return target


def requirements(*, quantised: bool) -> list[str]:
    """What a package needs to load and serve, with the versions it was made with."""
    names = (*REQUIREMENTS, "bitsandbytes", "accelerate") if quantised else REQUIREMENTS
    return [f"{name}=={version(name)}" for name in names]


def _name_base(path: pathlib.Path, base: LocalModel) -> None:
    """Let the adapter name its base by reference, not by a folder of this machine."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base.reference
    config["revision"] = base.revision
    _write(path, config)


def _copy_tokenizer(base: LocalModel, folder: pathlib.Path) -> None:
    from tunesmith.models.loading import load_tokenizer

    load_tokenizer(base).save_pretrained(folder)


def _write(path: pathlib.Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
