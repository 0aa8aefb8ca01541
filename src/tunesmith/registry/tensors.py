"""Shapes and values of a safetensors file, read without torch and without trust.

The layout is 8 bytes of header length (little-endian), a JSON header, then the values
(github.com/huggingface/safetensors); the library itself checks that offsets and sizes are sound.
"""

import json
import pathlib
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from tunesmith.errors import RegistryError

# integer type as wide as a value, and the bits of its exponent, all set in infinities and NaNs
FLOATS = {
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}


def shapes(folder: pathlib.Path, name: str) -> dict[str, tuple[int, ...]]:
    """Shape by tensor name; raises `RegistryError` when the file is damaged or holds other than floats."""
    try:
        with safe_open(folder / name, framework="np") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - it is not a dict
            kinds = {key: piece.get_dtype() for key, piece in slices.items()}
            found = {key: tuple(piece.get_shape()) for key, piece in slices.items()}
    except (SafetensorError, OSError) as error:
        raise RegistryError(f"{name}: is not a whole safetensors file ({str(error).splitlines()[0]})") from None
    for key, kind in kinds.items():
        if kind not in FLOATS:
            raise RegistryError(f"{name}: {key} has values of type {kind}; weights are F64, F32, F16 or BF16")
    return found


def finite(folder: pathlib.Path, name: str, key: str) -> bool:
    """Whether every value of a tensor is finite."""
    bits, exponent = _bits(folder / name, key)
    return not bool(((bits & exponent) == exponent).any())


def nonzero(folder: pathlib.Path, name: str, key: str) -> bool:
    """Whether any value of a tensor differs from zero (of either sign)."""
    bits, _ = _bits(folder / name, key)
    return bool((bits << bits.dtype.type(1)).any())


def _bits(path: pathlib.Path, key: str) -> tuple[np.ndarray, Any]:
    """A tensor's values as unsigned integers of their width, and the mask of their exponent."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[key]
    width, mask = FLOATS[entry["dtype"]]
    start, end = entry["data_offsets"]
    count = (end - start) // np.dtype(width).itemsize
    bits = np.fromfile(path, dtype=np.dtype(width).newbyteorder("<"), count=count, offset=8 + length + start)
    return bits, width(mask)
