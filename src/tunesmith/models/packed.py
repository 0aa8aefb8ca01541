"""Products with frozen weights on a CPU, by oneDNN's kernels and in its own layout.

A product of the usual kind lays its weight out anew for the processor's instructions each time. A weight that
never changes can keep that layout: the product has the same bits then, in bfloat16, and takes 0.6 to 0.95 of the time,
the fewer rows the less (AMD EPYC with AVX512-BF16). In float32, oneDNN also takes the place of MKL, which does not
use all that processors of other makers offer: there 0.45 of the time.
"""

import contextlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from tunesmith.models.device import cpu_computes_bfloat16, installed_memory_mb
from tunesmith.models.measurements import cpu_model, measured_once

ROWS = 512  # the layout is chosen for so many, and serves any number
COPIES = 2  # of each weight in training: for the way forward, and transposed for the way back
LEAST = 2**24  # bytes of weights, below which a product costs its call above all
SHARE = 0.1  # of the machine's memory, that packed copies may take at most
GAIN = 1.1  # that float32 products must make: less may be noise, and MKL's bits are what users of it know
ROUNDS, PRODUCTS = 9, 5  # about a tenth of a second


class Packed:
    """x Wᵀ for a frozen weight W [outputs, inputs], of which it keeps a copy in oneDNN's layout."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS)

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """[…, outputs] for x […, inputs]; has no gradient."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, bias, "none", [], "")
        return product


@contextlib.contextmanager
def prepacked(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Within, a model's weights of a type are laid out (see `prepack`); the copies are dropped afterwards."""
    layers = prepack(model, dtype)
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward")


def prepack(model: nn.Module, dtype: torch.dtype) -> list[nn.Linear]:
    """Have the linear layers whose weights are of a type multiply by packed ones, where that pays; returns them.

    For passes without gradients, while no weight changes. A layer with a forward pass of its own keeps that.
    """
    linear = [layer for layer in model.modules() if type(layer) is nn.Linear and "forward" not in layer.__dict__]
    layers = [layer for layer in linear if layer.weight.dtype == dtype]
    size = sum(layer.weight.numel() * layer.weight.itemsize for layer in layers)
    if not layers or not may_pack(size, layers[0].weight.device, dtype):
        return []
    for layer in layers:
        layer.__dict__["forward"] = partial(Packed(layer.weight), bias=layer.bias)
    return layers


def may_pack(size: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether copies of `size` bytes of weights of a type pay on this machine and leave it its memory.

    Decided by what is installed, not by what is free: runs that are repeated shall decide alike.
    """
    return onednn_pays(size, device, dtype) and size <= SHARE * installed_memory_mb("cpu") * 2**20


def onednn_pays(size: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN's kernels are the faster ones for a model with `size` bytes of weights of a type.

    It refuses bfloat16 where the processor would only emulate that, and float32 is MKL's otherwise. It wakes all
    threads for the smallest product, which MKL does not.
    """
    known = dtype in (torch.bfloat16, torch.float32) and device.type == "cpu" and size >= LEAST and onednn_packs()
    return known and (cpu_computes_bfloat16() if dtype == torch.bfloat16 else cpu_gains_by_onednn())


def onednn_packs() -> bool:
    """Whether this PyTorch has oneDNN's own layouts; on x86 processors only, as nothing was measured on others."""
    backend: Any = torch.backends.mkldnn  # its functions have no types
    return bool(backend.is_available()) and platform.machine().lower() in ("x86_64", "amd64")


def cpu_gains_by_onednn() -> bool:
    """Whether oneDNN is faster than MKL with float32 here, by a measurement made once per machine."""
    key = f"{cpu_model()}, torch {torch.__version__}"
    speedup: float = measured_once("onednn.json", key, onednn_speedup)
    return speedup > GAIN


def onednn_speedup() -> float:
    """Time of MKL's float32 product [512, 576] by [576, 1536] over oneDNN's: medians of alternating rounds."""
    rows, weight = torch.randn(512, 576), torch.randn(1536, 576)
    packed = Packed(weight)
    sides: dict[str, Callable[[], object]] = {"mkl": lambda: rows @ weight.T, "onednn": lambda: packed(rows)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, product in sides.items():
            began = time.perf_counter()
            for _ in range(PRODUCTS):
                product()
            seconds[name].append(time.perf_counter() - began)
    return statistics.median(seconds["mkl"]) / statistics.median(seconds["onednn"])
