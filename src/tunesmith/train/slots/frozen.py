"""The base's linear layers that read the same input, side by side: one product for all of them where that pays."""

from collections.abc import Sequence
from functools import cached_property

import torch

from tunesmith.models.packed import Packed


class Frozen:
    """Weights [outputs, inputs] and biases of a group of layers, by member.

    With `pack`, products are oneDNN's with copies that it has laid out, made at the first product. Otherwise they
    read the model's own weights.
    """

    def __init__(
        self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None], *, pack: bool = False
    ) -> None:
        self.weights, self.biases, self.pack = tuple(weights), tuple(biases), pack
        self.sizes = [weight.shape[0] for weight in weights]

    @property
    def inputs(self) -> int:
        """Width of the input."""
        return self.weights[0].shape[1]

    @property
    def bytes(self) -> int:
        """What the weights take."""
        return sum(weight.numel() * weight.itemsize for weight in self.weights)

    @cached_property
    def _whole(self) -> tuple[Packed, torch.Tensor | None]:
        known = [bias for bias in self.biases if bias is not None]
        if not known:
            return Packed(torch.cat(self.weights)), None
        filled = [known[0].new_zeros(n) if b is None else b for n, b in zip(self.sizes, self.biases, strict=True)]
        return Packed(torch.cat(self.weights)), torch.cat(filled).detach()

    @cached_property
    def _transposed(self) -> Packed:
        return Packed(torch.cat(self.weights).T)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs of all members side by side, [tokens, all outputs], for x [tokens, inputs]."""
        if self.pack:
            whole, bias = self._whole
            return whole(x, bias)
        outputs = x.new_empty(len(x), sum(self.sizes))
        for part, weight, bias in zip(self.split(outputs), self.weights, self.biases, strict=True):
            if bias is None:
                torch.mm(x, weight.T, out=part)
            else:
                torch.addmm(bias, x, weight.T, out=part)
        return outputs

    def backward(self, gradient: torch.Tensor) -> torch.Tensor:
        """Gradient of x from that of the outputs, [tokens, all outputs]."""
        if self.pack:
            return self._transposed(gradient)
        parts = self.split(gradient)
        total = parts[0] @ self.weights[0]
        for part, weight in zip(parts[1:], self.weights[1:], strict=True):
            total.addmm_(part, weight)
        return total

    def split(self, outputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The members' own columns."""
        return torch.split(outputs, self.sizes, dim=1)
