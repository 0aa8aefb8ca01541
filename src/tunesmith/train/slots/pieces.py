"""The parts of a Llama block that have no adapter: norms, rotary positions, the gated unit, the head. And gradients.

Sums and roots are computed in float32 at least, as transformers does.
"""

import torch
from torch.nn import functional

from tunesmith.models.prefix import at_least_float32
from tunesmith.train.slots.frozen import Frozen

HEAD_ROWS = 256  # losses whose logits are held at once
SOFTMAX_ROWS = 16  # of them, those whose probabilities are computed at once, so that they stay in the cache


def norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """RMS norm (Zhang and Sennrich, 2019) of x [tokens, width], and the inverse root mean squares [tokens, 1]."""
    exact = at_least_float32(x)
    inverse = torch.linalg.vector_norm(exact, dim=-1, keepdim=True).square_().div_(x.shape[1]).add_(epsilon).rsqrt_()
    return (exact * inverse).to(x.dtype).mul_(weight), inverse


def norm_backward(gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """Gradient of x; that of the weight is not needed, it is frozen."""
    exact = at_least_float32(gradient * weight)
    unit = at_least_float32(x) * inverse
    along = (exact * unit).mean(-1, keepdim=True)
    return exact.addcmul_(unit, along, value=-1).mul_(inverse).to(x.dtype)


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al., 2021) of [tokens, heads, width]; cos and sin are [tokens, 1, width]."""
    half = heads.shape[-1] // 2
    out = heads * cos
    out[..., :half].addcmul_(heads[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(heads[..., :half], sin[..., half:])
    return out


def rotate_backward(gradient: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Gradient of `rotate`'s input: the rotation turned back."""
    half = gradient.shape[-1] // 2
    out = gradient * cos
    out[..., :half].addcmul_(gradient[..., half:], sin[..., half:])
    out[..., half:].addcmul_(gradient[..., :half], sin[..., :half], value=-1)
    return out


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """SwiGLU (Shazeer, 2020)."""
    return functional.silu(gate).mul_(up)


def gated_backward(gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Gradients of gate and up, side by side."""
    both = gradient.new_empty(len(gradient), gate.shape[1] + up.shape[1])
    above_gate, above_up = torch.split(both, [gate.shape[1], up.shape[1]], dim=1)
    torch.ops.aten.silu_backward(gradient * up, gate, grad_input=above_gate)
    torch.ops.aten.silu(gate, out=above_up).mul_(gradient)
    return both


def head(
    hidden: torch.Tensor, output: Frozen, labels: torch.Tensor, *, need_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihoods [losses] of labels [losses] in nats, and each one's gradient of its own hidden state.

    `hidden` [losses, width] holds the state before each predicted token, `output` is the output layer.
    The gradient of a loss with respect to the logits is softmax − one-hot, so it is computed here, some
    rows at a time, in place of the logits, and those of a whole batch are never held. Empty without `need_gradient`.
    """
    losses = hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
    gradient = torch.empty_like(hidden if need_gradient else hidden[:0])
    at_once = SOFTMAX_ROWS if hidden.device.type == "cpu" else HEAD_ROWS
    for start in range(0, len(hidden), HEAD_ROWS):
        rows = slice(start, start + HEAD_ROWS)
        logits = output.forward(hidden[rows])
        parts = (torch.split(part, at_once) for part in (logits, labels[rows, None], losses[rows]))
        for some, wanted, into in zip(*parts, strict=True):
            into.copy_(_cross_entropy(some, wanted))
        if need_gradient:
            gradient[rows] = _backward(output, logits)
    return losses, gradient


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Losses [rows] of labels [rows, 1]; `logits` become their gradients."""
    exact = at_least_float32(logits)
    exact -= exact.amax(-1, keepdim=True)
    chosen = exact.gather(1, labels)[:, 0]
    total = exact.exp_().sum(-1)
    exact /= total[:, None]
    logits.copy_(exact.scatter_add_(1, labels, -torch.ones_like(total)[:, None]))
    return total.log() - chosen


def _backward(output: Frozen, above: torch.Tensor) -> torch.Tensor:
    """Gradient of the states from that of the logits; a row that is not finite leaves the others as they are.

    oneDNN's bfloat16 product on AMX may read beyond a row's end where the length is no multiple of 32
    (32,001 tokens, say; torch 2.13), and so carry a slot's NaN to its neighbour. The transposed one is safe but slower.
    """
    return output.backward(above) if above.shape[1] % 32 == 0 else (output.weights[0].T @ above.T).T
