"""Is a package whole, harmless and about the base it names? Cheap checks, without torch.

PEFT loads adapters with flipped bits, without their B matrices, or with renamed keys, at most with a
warning, and the registry accepts an empty folder; so nothing is registered, promoted, rolled back to or
served that has not been through here. What needs the base is in `against_base`.
"""

import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith import manifest
from tunesmith.errors import RegistryError
from tunesmith.registry import tensors

ALLOWED = (
    r"manifest\.json",
    r"(base|data|experiment|generation)\.json",
    r"requirements\.txt",
    r"adapter/adapter_config\.json",
    r"adapter/adapter_model\.safetensors",
    r"merged/(config|generation_config|model\.safetensors\.index)\.json",
    r"merged/model(-\d{5}-of-\d{5})?\.safetensors",
    r"tokenizer/[\w.-]+\.(json|txt|model|jinja)",
    r"tokenizer/additional_chat_templates/[\w.-]+\.jinja",
)
REQUIRED = (
    "base.json",
    "data.json",
    "experiment.json",
    "generation.json",
    "requirements.txt",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
)
PAIR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
LENGTHS = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_magnitude_vector")
WEIGHTS = "adapter/adapter_model.safetensors"


def verify_package(package: pathlib.Path, *, expected: Mapping[str, str] | None = None) -> dict[str, str]:
    """Check a package's files, documents and adapter; returns its manifest.

    `expected` is the manifest as it was when the package was registered. Raises `RegistryError` that names
    the file and what is wrong with it.
    """
    check_kinds(package)
    files = check_manifest(package)
    if expected is not None:
        check_registered(files, expected)
    for name in files:
        if name.endswith(".json"):
            refuse_code(read_json(package, name), name)
    check_generation(read_json(package, "generation.json"))
    config = check_adapter_config(package)
    check_adapter(package, config)
    for name in files:
        if name.startswith("merged/") and name.endswith(".safetensors"):
            check_finite(package, name)
    return files


def check_registered(files: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """A manifest may agree with its files and yet be another than the one that was registered."""
    for name in sorted({*files, *expected}):
        if files.get(name) != expected.get(name):
            problem = "is missing" if name not in files else "was added" if name not in expected else "was changed"
            raise RegistryError(f"{name}: {problem} since the version was registered")


def check_kinds(package: pathlib.Path) -> None:
    """Refuse links and every kind of file that a package does not need, pickles first among them."""
    if not package.is_dir():
        raise RegistryError(f"{package.name}: there is no package; its files were deleted")
    for folder, folders, names in os.walk(package):
        for name in sorted([*folders, *names]):
            path = pathlib.Path(folder) / name
            relative = path.relative_to(package).as_posix()
            if path.is_symlink():
                raise RegistryError(f"{relative}: is a symbolic link; a package holds its own files only")
            if path.is_dir():
                continue
            if not path.is_file() or not any(re.fullmatch(pattern, relative) for pattern in ALLOWED):
                raise RegistryError(
                    f"{relative}: is not a kind of file that belongs into a package; weights are safetensors, "
                    "and formats that can run code are refused"
                )


def check_manifest(package: pathlib.Path) -> dict[str, str]:
    """Every file against the manifest; returns the manifest."""
    try:
        files = manifest.verify(package)
    except manifest.ManifestError as error:
        raise RegistryError(str(error).removeprefix(f"{package}{os.sep}")) from None
    for name in REQUIRED:
        if name not in files:
            raise RegistryError(f"{name}: is missing; the package is incomplete")
    if not any(name.startswith("tokenizer/") for name in files):
        raise RegistryError("tokenizer: is missing; the package is incomplete")
    return files


def read_json(package: pathlib.Path, name: str) -> Any:
    """A JSON file of a package; raises `RegistryError` when it is not JSON."""
    try:
        return json.loads((package / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RegistryError(f"{name}: is not valid JSON") from None


def refuse_code(value: Any, name: str) -> None:
    """Refuse settings that make a loader import code: `auto_map`, `trust_remote_code`, PEFT's `auto_mapping`."""
    for key, inner in _items(value):
        if key in {"auto_map", "auto_mapping", "custom_pipelines"} and inner:
            raise RegistryError(f"{name}: has {key}, which would load code; it is refused")
        if key == "trust_remote_code" and inner is not False:
            raise RegistryError(f"{name}: asks for trust_remote_code; it is refused")


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _items(inner)


def check_generation(settings: Any) -> None:
    """The generation settings are a length and plain switches."""
    length = settings.get("max_new_tokens") if isinstance(settings, dict) else None
    if not isinstance(length, int) or not 0 < length <= 100_000:
        raise RegistryError("generation.json: max_new_tokens must be a positive number of tokens")


def check_adapter_config(package: pathlib.Path) -> Mapping[str, Any]:
    """The adapter's configuration is LoRA's and names the package's own base."""
    name = "adapter/adapter_config.json"
    config, base = read_json(package, name), read_json(package, "base.json")
    if not isinstance(base, dict) or not re.fullmatch(r"[0-9a-f]{64}", str(base.get("sha256"))):
        raise RegistryError("base.json: has no SHA-256 of the base")
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise RegistryError(f"{name}: peft_type must be LORA")
    if config.get("base_model_name_or_path") != base.get("reference"):
        raise RegistryError(
            f"{name}: names the base {config.get('base_model_name_or_path')}, base.json names {base.get('reference')}"
        )
    if config.get("init_lora_weights") is not True:
        raise RegistryError(f"{name}: init_lora_weights must be true; others change the base's weights on loading")
    return config


def on_quantised_base(package: pathlib.Path) -> bool:
    """Whether a package's adapter was trained and scored on a base in NF4."""
    experiment = read_json(package, "experiment.json")
    adapter = experiment.get("adapter") if isinstance(experiment, dict) else None
    return isinstance(adapter, dict) and adapter.get("kind") == "qlora"


def check_adapter(package: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Matrices come in pairs of the configured rank (with lengths if it is DoRA), all finite, some B not zero."""
    shapes = tensors.shapes(package, WEIGHTS)
    pairs, lengths = group_by_module(shapes)
    if not pairs:
        raise RegistryError(f"{WEIGHTS}: holds no LoRA matrices")
    for module, sides in pairs.items():
        lacking = {"A", "B"} - sides.keys()
        if lacking:
            raise RegistryError(f"{WEIGHTS}: {module} lacks its lora_{lacking.pop()} matrix")
        rank = rank_of(module, config)
        if len(sides["A"]) != 2 or len(sides["B"]) != 2 or sides["A"][0] != rank or sides["B"][1] != rank:
            raise RegistryError(f"{WEIGHTS}: {module} has not the rank {rank} of adapter_config.json")
    if lengths != (set(pairs) if config.get("use_dora") else set()):
        raise RegistryError(f"{WEIGHTS}: its magnitude vectors are not those that adapter_config.json asks for")
    check_finite(package, WEIGHTS)
    if not any(tensors.nonzero(package, WEIGHTS, key) for key in shapes if ".lora_B." in key):
        raise RegistryError(f"{WEIGHTS}: every lora_B matrix is zero; the adapter has no effect")


def group_by_module(
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[dict[str, dict[str, tuple[int, ...]]], set[str]]:
    """Shapes of A and B by module, and the modules with a magnitude vector; refuses names that PEFT does not give."""
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    lengths = set()
    for key, shape in shapes.items():
        matrix, length = PAIR.fullmatch(key), LENGTHS.fullmatch(key)
        if matrix:
            pairs.setdefault(matrix["module"], {})[matrix["side"]] = shape
        elif length:
            lengths.add(length["module"])
        elif "lora_" in key or not key.startswith("base_model.model."):
            raise RegistryError(f"{WEIGHTS}: {key} is not a name that LoRA gives a matrix")
    return pairs, lengths


def rank_of(module: str, config: Mapping[str, Any]) -> int:
    """The rank that an adapter's configuration gives a module."""
    for pattern, rank in (config.get("rank_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return int(rank)
    return int(config.get("r") or 0)


def check_finite(package: pathlib.Path, name: str) -> None:
    """Every value of a weights file is a finite number."""
    for key in tensors.shapes(package, name):
        if not tensors.finite(package, name, key):
            raise RegistryError(f"{name}: {key} has values that are not finite")
