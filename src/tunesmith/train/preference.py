"""What DPO minimises over preference pairs, given what policy and reference think of their replies."""

from collections.abc import Sequence

import torch
from torch.nn.functional import logsigmoid

from tunesmith.config.method import DpoConfig
from tunesmith.train.pairs import Pair
from tunesmith.train.reference import Asked


def both(pairs: Sequence[Pair]) -> list[Asked]:
    """Each pair's prompt with the chosen reply, then with the rejected one."""
    return [(pair.prompt, reply) for pair in pairs for reply in (pair.chosen, pair.rejected)]


def pair_figures(
    method: DpoConfig, policy: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Of each pair, [pairs]: loss, reward margin, whether it is ranked right by reward, and by log π per token.

    `policy` and `reference` are the summed log-probabilities in nats of its chosen and rejected reply, [pairs, 2],
    `lengths` their tokens. The mean of the latter two is a share. To the variant's loss comes `sft_weight` times the
    chosen reply's negative log-likelihood per token (Pang et al., 2024).
    """
    ratios = policy - reference
    (chosen, rejected), (likely, unlikely) = (method.beta * ratios).T, (policy / lengths).T
    return {
        "loss": pair_losses(method, ratios, lengths) - method.sft_weight * likely,
        "reward_margin": chosen - rejected,
        "accuracy": (chosen > rejected).to(policy.dtype),
        "ranked_right": (likely > unlikely).to(policy.dtype),
    }


def pair_losses(method: DpoConfig, ratios: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Loss of each pair, [pairs], from log π/π_ref in nats and tokens of its chosen and rejected reply, [pairs, 2].

    The variants are TRL's: Rafailov et al., 2023 (sigmoid), Zhao et al., 2023 (hinge), Azar et al., 2023 (ipo),
    Chowdhury et al., 2024 (robust), D'Oosterlinck et al., 2024 (apo).
    """
    beta, smoothing = method.beta, method.label_smoothing
    per_token = ratios / lengths if method.loss in {"ipo", "sigmoid_norm"} else ratios
    chosen, rejected = per_token.T
    margin = chosen - rejected
    if method.loss == "hinge":
        return torch.relu(1 - beta * margin)
    if method.loss == "ipo":
        return (margin - 1 / (2 * beta)) ** 2
    if method.loss == "robust":
        right, flipped = logsigmoid(beta * margin), logsigmoid(-beta * margin)
        return (smoothing * flipped - (1 - smoothing) * right) / (1 - 2 * smoothing)
    if method.loss == "apo_zero":
        return 1 - torch.sigmoid(beta * chosen) + torch.sigmoid(beta * rejected)
    if method.loss == "apo_down":
        return torch.sigmoid(beta * chosen) + 1 - torch.sigmoid(beta * margin)
    return -logsigmoid(beta * margin)
