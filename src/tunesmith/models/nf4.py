"""QLoRA's quantisation of a base: 4-bit NormalFloat with double quantisation (Dettmers et al., 2023)."""

import contextlib
import io
import logging
from typing import Any

import torch
from transformers import PreTrainedModel

from tunesmith.errors import ModelError
from tunesmith.models.device import Placement

PROBE = 64  # width of the matrix that is quantised to see whether that works


def nf4(placement: Placement) -> Any:
    """The quantisation as transformers takes it; raises `ModelError` when it does not work here."""
    from transformers import BitsAndBytesConfig

    require_kernels(placement.device)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=placement.dtype,
    )


def require_kernels(device: str) -> None:
    """Quantise a small matrix; raises `ModelError` when bitsandbytes is missing or cannot do it on `device`."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a kernel that nothing here needs
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    except ImportError:
        raise ModelError("adapter.kind: qlora needs bitsandbytes; run: pip install bitsandbytes") from None
    weight = torch.eye(PROBE, device=device)
    try:
        found = dequantize_4bit(*quantize_4bit(weight, compress_statistics=True, quant_type="nf4"))
        works, reason = bool(torch.isfinite(found).all()), "its values are not finite"
    except Exception as error:  # noqa: BLE001 - a missing kernel shows as one of many errors
        works, reason = False, str(error).strip().splitlines()[0][:200]
    if not works:
        raise ModelError(
            f"adapter.kind: bitsandbytes cannot quantise to NF4 on this device ({device}: {reason}); use kind lora"
        )


def keep_layout(base: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking the weights of a base on a CPU with AVX512-BF16.

    In a forward pass for inference it packs them in another order for a faster kernel, and does not undo that:
    later training, DoRA's norms and dequantising would all read them in the wrong order.
    """
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
