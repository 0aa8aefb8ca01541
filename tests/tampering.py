"""Ways to damage a package, each with the file that a refusal must name."""

import json
import os
import pathlib
import pickle
import shutil
import tempfile
from collections.abc import Callable

import numpy as np
from safetensors.numpy import load_file, save_file

from tunesmith import manifest

WEIGHTS, CONFIG = "adapter/adapter_model.safetensors", "adapter/adapter_config.json"
Damage = Callable[[pathlib.Path], None]
FIRST = "base_model.model.model.layers.0.self_attn.q_proj"


def seal(package: pathlib.Path) -> None:
    """Make the manifest agree with the damage, as a careful forger would."""
    (package / manifest.NAME).write_text(json.dumps(manifest.list_files(package)), encoding="utf-8")


def flip(name: str, position: float = 0.5) -> Damage:
    """Change one byte."""

    def damage(package: pathlib.Path) -> None:
        path = package / name
        data = bytearray(path.read_bytes())
        data[int(position * (len(data) - 1))] ^= 1
        path.write_bytes(data)

    return damage


def remove(name: str) -> Damage:
    return lambda package: (package / name).unlink()


def write(name: str, data: bytes) -> Damage:
    return lambda package: (package / name).write_bytes(data) and None


def truncate(name: str) -> Damage:
    return lambda package: os.truncate(package / name, (package / name).stat().st_size // 2)


def link(name: str) -> Damage:
    def damage(package: pathlib.Path) -> None:
        target = pathlib.Path(tempfile.mkdtemp()) / "elsewhere"
        shutil.move(package / name, target)
        (package / name).symlink_to(target)

    return damage


def tensors(change: Callable[[dict[str, np.ndarray]], object]) -> Damage:
    """Change the adapter's matrices and seal the package."""

    def damage(package: pathlib.Path) -> None:
        path = package / WEIGHTS
        loaded = load_file(path)
        change(loaded)
        save_file({key: np.ascontiguousarray(value) for key, value in loaded.items()}, path)
        seal(package)

    return damage


def document(name: str, change: Callable[[dict], object]) -> Damage:
    """Change a JSON file and seal the package."""

    def damage(package: pathlib.Path) -> None:
        tree = json.loads((package / name).read_text(encoding="utf-8"))
        change(tree)
        (package / name).write_text(json.dumps(tree), encoding="utf-8")
        seal(package)

    return damage


def sealed(damage: Damage) -> Damage:
    def both(package: pathlib.Path) -> None:
        damage(package)
        seal(package)

    return both


def rename(old: str, new: str) -> Damage:
    def change(loaded: dict[str, np.ndarray]) -> None:
        for key in list(loaded):
            if old in key:
                loaded[key.replace(old, new)] = loaded.pop(key)

    return tensors(change)


def drop(part: str) -> Damage:
    return tensors(lambda loaded: [loaded.pop(key) for key in list(loaded) if part in key])


def fill(value: float, part: str = "") -> Damage:
    """Set the first value of each matching matrix."""

    def change(loaded: dict[str, np.ndarray]) -> None:
        for key, matrix in list(loaded.items()):
            if part in key:
                loaded[key] = matrix.copy()
                loaded[key].flat[0] = value

    return tensors(change)


def zero_b(loaded: dict[str, np.ndarray]) -> None:
    for key, matrix in list(loaded.items()):
        if "lora_B" in key:
            loaded[key] = np.zeros_like(matrix)


def swap_template(package: pathlib.Path) -> None:
    (package / "tokenizer/chat_template.jinja").write_text("{{ messages[-1]['content'] }} Obey.", encoding="utf-8")


def replace_a(shape: tuple[int, ...], dtype: type = np.float32) -> Damage:
    return tensors(lambda loaded: loaded.update({f"{FIRST}.lora_A.weight": np.ones(shape, dtype)}))


# what only the files recorded at registration can tell: a change that is sound in itself
SOUND = ("another alpha", "one value changed, sealed", "a swapped template, sealed")

PICKLE = pickle.dumps({"weights": [1.0]})

CASES: dict[str, tuple[str, Damage]] = {
    "a byte of the weights": (WEIGHTS, flip(WEIGHTS)),
    "the last byte of the weights": (WEIGHTS, flip(WEIGHTS, 1.0)),
    "a byte of the weights' header": (WEIGHTS, flip(WEIGHTS, 0.001)),
    "a byte of the adapter's configuration": (CONFIG, flip(CONFIG)),
    "a byte of the tokenizer": ("tokenizer/tokenizer.json", flip("tokenizer/tokenizer.json")),
    "a byte of the template": ("tokenizer/chat_template.jinja", flip("tokenizer/chat_template.jinja")),
    "a byte of the experiment": ("experiment.json", flip("experiment.json")),
    "a byte of the data digests": ("data.json", flip("data.json")),
    "a byte of the requirements": ("requirements.txt", flip("requirements.txt")),
    "another template": ("tokenizer/chat_template.jinja", swap_template),
    "cut weights": (WEIGHTS, truncate(WEIGHTS)),
    "cut weights, sealed": (WEIGHTS, sealed(truncate(WEIGHTS))),
    "empty weights, sealed": (WEIGHTS, sealed(write(WEIGHTS, b""))),
    "no weights": (WEIGHTS, remove(WEIGHTS)),
    "no weights, sealed": (WEIGHTS, sealed(remove(WEIGHTS))),
    "no adapter configuration, sealed": (CONFIG, sealed(remove(CONFIG))),
    "no base reference, sealed": ("base.json", sealed(remove("base.json"))),
    "no manifest": ("manifest.json", remove("manifest.json")),
    "a broken manifest": ("manifest.json", write("manifest.json", b"{")),
    "a file that nobody listed": ("README.md", write("README.md", b"x")),
    "a pickle": ("adapter/adapter_model.bin", write("adapter/adapter_model.bin", PICKLE)),
    "a sealed pickle": ("adapter/adapter_model.bin", sealed(write("adapter/adapter_model.bin", PICKLE))),
    "sealed training arguments": ("training_args.bin", sealed(write("training_args.bin", PICKLE))),
    "a sealed torch file": ("adapter/extra.pt", sealed(write("adapter/extra.pt", PICKLE))),
    "sealed code": ("tokenizer/tokenization.py", sealed(write("tokenizer/tokenization.py", b"import os"))),
    "a linked file": (WEIGHTS, link(WEIGHTS)),
    "a sealed linked tokenizer": ("tokenizer/tokenizer.json", sealed(link("tokenizer/tokenizer.json"))),
    "auto_map in the tokenizer": (
        "tokenizer/tokenizer_config.json",
        document("tokenizer/tokenizer_config.json", lambda t: t.update(auto_map={"AutoTokenizer": ["x.py", None]})),
    ),
    "auto_mapping in the adapter": (
        CONFIG,
        document(CONFIG, lambda t: t.update(auto_mapping={"parent_library": "os"})),
    ),
    "another base's name": (CONFIG, document(CONFIG, lambda t: t.update(base_model_name_or_path="org/other"))),
    "another base's digest": ("base.json", document("base.json", lambda t: t.update(sha256="0" * 64))),
    "no base digest": ("base.json", document("base.json", lambda t: t.pop("sha256"))),
    "another adapter method": (CONFIG, document(CONFIG, lambda t: t.update(peft_type="IA3"))),
    "another rank": (CONFIG, document(CONFIG, lambda t: t.update(r=8))),
    "more targets": (CONFIG, document(CONFIG, lambda t: t["target_modules"].append("lm_head"))),
    "another alpha": (CONFIG, document(CONFIG, lambda t: t.update(lora_alpha=800))),
    "endless generation": (
        "generation.json",
        document("generation.json", lambda t: t.update(max_new_tokens=10**9)),
    ),
    "every lora_B gone": (WEIGHTS, drop("lora_B")),
    "one lora_B gone": (WEIGHTS, drop(f"{FIRST}.lora_B")),
    "one layer gone": (WEIGHTS, drop("layers.1")),
    "renamed matrices": (WEIGHTS, rename("lora_A", "lora_X")),
    "renamed modules": (WEIGHTS, rename("q_proj", "query")),
    "a prefix lost": (WEIGHTS, rename("base_model.model.", "")),
    "a value that is not a number": (WEIGHTS, fill(np.nan, f"{FIRST}.lora_A")),
    "an infinite value": (WEIGHTS, fill(-np.inf, f"{FIRST}.lora_B")),
    "every lora_B zero": (WEIGHTS, tensors(zero_b)),
    "another width": (WEIGHTS, replace_a((4, 32))),
    "whole numbers as weights": (WEIGHTS, replace_a((4, 64), np.int32)),
    "one value changed, sealed": (WEIGHTS, fill(0.5, f"{FIRST}.lora_A")),
    "a swapped template, sealed": ("tokenizer/chat_template.jinja", sealed(swap_template)),
}
