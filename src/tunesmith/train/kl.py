"""A limit on how far a policy may leave its reference."""

from typing import Any

import torch
from transformers import TrainerCallback


class KlLimit(TrainerCallback):
    """Ends a training once the KL divergence passes a limit, and goes back to the last weights that were within it.

    A step logs the divergence of the weights that it sampled with, in nats per reply. What the last step made of
    them is not known yet, so only weights that a step has begun with are gone back to.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.reason = ""
        self.sampled: dict[str, torch.Tensor] = {}
        self.within: dict[str, torch.Tensor] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remember the weights that the step begins with."""
        self.sampled = {
            name: weight.detach().clone() for name, weight in kwargs["model"].named_parameters() if weight.requires_grad
        }

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Compare a step's divergence with the limit."""
        divergence = kwargs["logs"].get("reply_kl")
        if divergence is None:
            return
        if divergence <= self.limit:
            self.within = self.sampled
            return
        weights = dict(kwargs["model"].named_parameters())
        with torch.no_grad():
            for name, value in (self.within or self.sampled).items():
                weights[name].copy_(value)
        self.reason = (
            f"the KL divergence passed method.max_kl {self.limit:g} at step {state.global_step}, {divergence:.1f} nats "
            "per reply; the adapter is the last one within it"
        )
        control.should_training_stop = True
