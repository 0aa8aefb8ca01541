"""How a model is trained: one section for each method, told apart by `kind`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tunesmith.config.strict import Section

Scheduler = Literal["linear", "cosine", "constant"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Beta = Annotated[float, Field(gt=0, le=10)]


class Training(Section):
    """What every method has: AdamW over batches of rows."""

    kind: str
    """The method."""
    learning_rate: Rate = 2.0e-4
    """Peak learning rate of AdamW."""
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Rows per optimiser step."""
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Rows per forward pass; the batch is accumulated from these. All at once when null."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the training rows."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of AdamW."""
    scheduler: Scheduler = "cosine"
    """Shape of the learning rate after warm-up."""
    warmup: Share = 0.05
    """Share of steps over which the learning rate rises from 0."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    @property
    def rows_at_once(self) -> int:
        """Rows per forward pass."""
        return self.micro_batch or self.batch_size

    @model_validator(mode="after")
    def _accumulates_evenly(self) -> "Training":
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}")
        return self


class SftConfig(Training):
    """Supervised fine-tuning on the assistant's turns."""

    kind: Literal["sft"] = "sft"
    """The method."""


class DpoConfig(Training):
    """Direct preference optimisation on pairs of replies (Rafailov et al., 2023)."""

    kind: Literal["dpo"]
    """The method."""
    learning_rate: Rate = 5.0e-5
    """Peak learning rate of AdamW."""
    beta: Beta = 0.1
    """How dear it is to leave the reference policy; larger stays closer."""
    loss: Literal["sigmoid", "hinge", "ipo", "robust", "apo_zero", "apo_down", "sigmoid_norm"] = "sigmoid"
    """The variant, by TRL's name; `ipo` and `sigmoid_norm` compare replies per token."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Share of pairs taken to be the wrong way round; `robust` alone heeds it."""
    sft_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the chosen reply's own loss per token beside the variant's; keeps what was learnt by SFT."""

    @model_validator(mode="after")
    def _heeds_label_smoothing(self) -> "DpoConfig":
        if self.label_smoothing and self.loss != "robust":
            raise ValueError(f"loss {self.loss} heeds no label_smoothing; use loss robust, or leave it at 0")
        return self


class KtoConfig(Training):
    """Kahneman–Tversky optimisation on replies that are wanted or not (Ethayarajh et al., 2024)."""

    kind: Literal["kto"]
    """The method."""
    learning_rate: Rate = 5.0e-5
    """Peak learning rate of AdamW."""
    beta: Beta = 0.1
    """How dear it is to leave the reference policy; larger stays closer."""
    wanted_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the rows whose `label` is true."""
    unwanted_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the rows whose `label` is false."""

    @model_validator(mode="after")
    def _has_others_to_compare_with(self) -> "KtoConfig":
        if self.rows_at_once < 2:
            name = "micro_batch" if self.micro_batch else "batch_size"
            raise ValueError(
                f"{name} 1 leaves KTO nothing to estimate the KL divergence from, which it takes from the other rows "
                "of a forward pass; use 2 or more"
            )
        return self


class RewardConfig(Training):
    """A reward model over preference pairs (Bradley and Terry, 1952)."""

    kind: Literal["reward"]
    """The method."""
    center: Annotated[float, Field(ge=0)] = 0.01
    """Weight of the squared sum of a pair's rewards in the loss, which keeps rewards near 0."""


class RlhfConfig(Training):
    """Reinforcement learning from a reward model: REINFORCE with the other replies as baseline (RLOO)."""

    kind: Literal["rlhf"]
    """The method."""
    reward_model: str
    """The run of a reward model, `runs:/RUN_ID`, or the folder of its adapter relative to this file."""
    learning_rate: Rate = 1.0e-4
    """Peak learning rate of AdamW."""
    beta: Beta = 0.05
    """Reward that a reply loses for each nat of KL divergence from the reference policy; without one none is known."""
    max_kl: Annotated[float, Field(gt=0)] = 10.0
    """KL divergence from the reference policy, in nats per reply, at which the training stops."""
    replies: Annotated[int, Field(ge=2)] = 4
    """Replies sampled to each prompt of a step."""
    max_reply: Annotated[int, Field(ge=1)] = 64
    """Longest sampled reply in tokens."""


def _with_kind(value: Any) -> Any:
    return {"kind": "sft", **value} if isinstance(value, dict) else value


Method = Annotated[
    Annotated[SftConfig | DpoConfig | KtoConfig | RewardConfig | RlhfConfig, Field(discriminator="kind")],
    BeforeValidator(_with_kind),
]
