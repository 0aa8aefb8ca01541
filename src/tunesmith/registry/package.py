"""A package: everything that a tuned model is, but for its base, which is pinned by digest."""

import json
import pathlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith import manifest
from tunesmith.errors import RegistryError
from tunesmith.models.references import LocalModel

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class Contents:
    """What goes into a package besides the adapter."""

    base: LocalModel
    experiment: Mapping[str, Any]
    data: Mapping[str, str]
    max_new_tokens: int


def build_package(target: pathlib.Path, adapter: pathlib.Path, contents: Contents) -> pathlib.Path:
    """Write a package to `target`, with its manifest of SHA-256s; raises `RegistryError` if files lack."""
    with manifest.writing(target) as folder:
        (folder / "adapter").mkdir()
        for name in ADAPTER_FILES:
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
    return target


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
