"""Which device, precision and attention kernel a model runs with, chosen by what is there."""

import contextlib
import ctypes
import functools
import importlib.util
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunesmith.config.experiment import ModelConfig
from tunesmith.errors import DeviceError, TunesmithError
from tunesmith.models.measurements import cpu_model, measured_once

if TYPE_CHECKING:
    import torch  # loaded where it is needed: a coordinator on a CPU never needs it

ACCELERATORS = ("nvidia[0-9]*", "nvmap", "kfd", "dxg")  # device files of CUDA, Jetson, ROCm, and CUDA in WSL
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
BFLOAT16_ROUNDS, BFLOAT16_PRODUCTS = 9, 5  # about a fifth of a second


@dataclass(frozen=True)
class Placement:
    """Where and how a model runs."""

    device: str
    dtype: "torch.dtype"
    attention: str
    reason: str

    def describe(self) -> str:
        """One phrase for people."""
        return f"{self.device}, {str(self.dtype).removeprefix('torch.')}, {self.attention} attention ({self.reason})"


def may_have_accelerator() -> bool:
    """Whether an accelerator may be here, told without PyTorch; False is certain, and said on Linux only."""
    return sys.platform != "linux" or any(any(pathlib.Path("/dev").glob(name)) for name in ACCELERATORS)


def device_for(config: ModelConfig) -> str:
    """`cuda` or `cpu`; raises `DeviceError` when what the experiment asks for is not there."""
    cuda = False
    if config.device != "cpu" and may_have_accelerator():
        import torch

        cuda = torch.cuda.is_available()
    if config.device == "cuda" and not cuda:
        raise DeviceError("model.device: cuda is asked for but no CUDA device is there; use auto or cpu")
    device = "cuda" if cuda else "cpu"
    _attention(config, device)
    return device


def place(config: ModelConfig) -> Placement:
    """Choose a placement; raises `DeviceError` when what the experiment asks for is not there."""
    import torch

    device = device_for(config)
    if config.dtype == "auto":
        native = cuda_computes_bfloat16() if device == "cuda" else cpu_computes_bfloat16() and cpu_gains_by_bfloat16()
        dtype = torch.bfloat16 if native else torch.float32
        reason = "bfloat16 is faster here" if native else "bfloat16 is no faster here"
    else:
        dtype, reason = getattr(torch, config.dtype), "as configured"
    return Placement(device=device, dtype=dtype, attention=_attention(config, device), reason=reason)


def _attention(config: ModelConfig, device: str) -> str:
    flash = importlib.util.find_spec("flash_attn") is not None
    if config.attention == "flash_attention_2" and (device != "cuda" or not flash):
        raise DeviceError("model.attention: flash_attention_2 needs CUDA and the package flash-attn; use auto")
    if config.attention != "auto":
        return config.attention
    return "flash_attention_2" if device == "cuda" and flash else "sdpa"


def cuda_computes_bfloat16() -> bool:
    """Whether the CUDA device multiplies bfloat16 natively (Ampere and newer)."""
    import torch

    return torch.cuda.get_device_capability()[0] >= 8


def cpu_computes_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 natively.

    Without AVX512-BF16 or AMX (on x86) a bfloat16 product runs about 100 times slower than float32.
    """
    import torch

    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def cpu_has_amx() -> bool:
    """Whether the CPU multiplies bfloat16 by AMX."""
    import torch

    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def cpu_gains_by_bfloat16() -> bool:
    """Whether a bfloat16 product is really faster on this CPU, by a measurement made once per machine.

    Having the instructions does not say so: on an Intel Xeon with AVX512-BF16 and without AMX,
    `bfloat16_speedup` measured 0.757, that is, float32 was 1.3 times as fast. The outcome is kept in the
    cache folder, so that all runs and workers of a machine choose alike.
    """
    import torch

    key = f"{cpu_model()}, torch {torch.__version__}"
    speedup: float = measured_once("bfloat16.json", key, bfloat16_speedup)
    return speedup > 1


@functools.lru_cache(maxsize=1)
def bfloat16_speedup() -> float:
    """Time of a float32 product [512, 576] by [576, 1536] over a bfloat16 one's: medians of alternating rounds."""
    import torch

    left, right = torch.randn(512, 576), torch.randn(1536, 576)
    pairs = {dtype: (left.to(dtype), right.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in pairs}
    for _ in range(BFLOAT16_ROUNDS):
        for dtype, (rows, weight) in pairs.items():
            began = time.perf_counter()
            for _ in range(BFLOAT16_PRODUCTS):
                (rows @ weight.T) @ weight
            seconds[dtype].append(time.perf_counter() - began)
    return statistics.median(seconds[torch.float32]) / statistics.median(seconds[torch.bfloat16])


def keep_memory() -> None:
    """Tell glibc to reuse freed memory instead of returning it to the kernel after every operation.

    A training step frees and takes hundreds of buffers of some megabytes; the page faults that follow
    from returning them took a fifth of a step's time on 2 cores.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def free_memory_mb(device: "torch.device") -> float:
    """Memory that can be had now, in MiB: of the CUDA device, else of this machine."""
    if device.type == "cuda":
        import torch

        return torch.cuda.mem_get_info(device)[0] / 2**20
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice: a CUDA device's, or this machine's."""
    import torch

    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # PyTorch has no type for it
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or on_cpu


@contextlib.contextmanager
def lacking_memory(explain: Callable[[], TunesmithError]) -> Iterator[None]:
    """Raise what `explain` gives when memory does not suffice inside the block."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        raise explain() from None


def installed_memory_mb(device: str) -> float:
    """All memory of the CUDA device, else of this machine, in MiB."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[1] / 2**20
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20


def fix_threads() -> int:
    """Pin torch to one thread per core at hand, so that equal runs give equal bits; returns the count."""
    import torch

    count = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    torch.set_num_threads(count)
    return count


@contextlib.contextmanager
def threads_of(count: int) -> Iterator[None]:
    """Within, `fix_threads` gives torch `count` threads; afterwards this process has what it had before."""
    import torch

    variable, before = "OMP_NUM_THREADS", torch.get_num_threads()
    told = os.environ.get(variable)
    os.environ[variable] = str(count)
    try:
        yield
    finally:
        os.environ.update({variable: told}) if told is not None else os.environ.pop(variable)
        torch.set_num_threads(before)
