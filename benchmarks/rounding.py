"""Whose rounding it is when two sides disagree on log-likelihoods: each against float64, and lm-eval against itself."""

import copy
import functools
from collections.abc import Mapping

from torch.nn import functional
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm

Likelihoods = list[float]


def in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a Llama in float64, its norms too, which transformers computes in float32 whatever the weights are."""
    model = copy.deepcopy(model).double()
    for layer in model.modules():
        if isinstance(layer, LlamaRMSNorm):
            settings = {"normalized_shape": layer.weight.shape, "weight": layer.weight, "eps": layer.variance_epsilon}
            layer.forward = functools.partial(functional.rms_norm, **settings)
    return model


def largest(first: Likelihoods, second: Likelihoods) -> float:
    """The largest difference of two sides on one item."""
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


def rounding(
    float32: Mapping[str, Likelihoods], float64: Mapping[str, Likelihoods], by_batch_size: Mapping[int, Likelihoods]
) -> dict[str, float]:
    """Largest differences: of the sides `ours` and `theirs` in either precision, and of lm-eval from itself."""
    sizes = list(by_batch_size.values())
    return {
        "ours - lm-eval": largest(float32["ours"], float32["theirs"]),
        "ours - float64": largest(float32["ours"], float64["theirs"]),
        "lm-eval - float64": largest(float32["theirs"], float64["theirs"]),
        "lm-eval - lm-eval at another batch size": max(largest(a, b) for a in sizes for b in sizes),
        "ours - lm-eval, both in float64": largest(float64["ours"], float64["theirs"]),
    }
