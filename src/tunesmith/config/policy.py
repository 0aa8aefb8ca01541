"""A registry policy: what a candidate must prove before the champion's alias moves to it."""

from typing import Annotated, Literal

from pydantic import Field

from tunesmith.config.experiment import Name
from tunesmith.config.method import Share
from tunesmith.config.strict import Document, Section

Confidence = Annotated[float, Field(gt=0.5, lt=1)]


class Superiority(Section):
    """The candidate is better than a rival, item by item, at a confidence."""

    rule: Literal["beats_champion", "beats_base"]
    """Against whom; without a champion the base stands in."""
    metric: str
    """A metric of the holdout, `holdout/TASK/METRIC`."""
    confidence: Confidence = 0.95
    """One-sided confidence."""


class NonInferiority(Section):
    """The candidate is not worse than a rival by more than a margin, at a confidence."""

    rule: Literal["no_worse_than_champion", "no_worse_than_base"]
    """Against whom; without a champion the base stands in."""
    metric: str
    """A metric of the holdout, `holdout/TASK/METRIC`."""
    margin: Annotated[float, Field(ge=0)]
    """The loss that is still accepted."""
    confidence: Confidence = 0.95
    """One-sided confidence."""


class Limit(Section):
    """A metric lies above or below a fixed value."""

    rule: Literal["at_least", "at_most"]
    """The side that passes."""
    metric: str
    """Any metric of the candidate's run."""
    value: float
    """The limit, which itself passes."""


Gate = Annotated[Superiority | NonInferiority | Limit, Field(discriminator="rule")]


class Rollout(Section):
    """How traffic is shared while a candidate is tried."""

    candidate_share: Share = 0.10
    """Share of users who are answered by the candidate."""
    sticky_by: str = "user_id"
    """Field of a request that keeps a user on one side."""


class Monitor(Section):
    """When the deployed model counts as decayed."""

    window_hours: Annotated[float, Field(gt=0)] = 24
    """Length of the window of requests that is judged."""
    max_psi: Annotated[float, Field(gt=0)] = 0.2
    """Largest population stability index of the inputs."""
    on_breach: Literal["retrain", "report"] = "retrain"
    """What a breach starts."""


class Hook(Section):
    """A command that runs after the champion has changed, such as a deployment."""

    command: Annotated[list[str], Field(min_length=1)]
    """Program and arguments, run without a shell in the project's folder; see ARCHITECTURE.md for its environment."""
    timeout_seconds: Annotated[float, Field(gt=0)] = 60
    """When it is stopped and counts as failed."""


class Card(Section):
    """What a model card says that no record knows."""

    intended_use: str = "not stated"
    """Who may use the model, and what for."""
    limits: tuple[str, ...] = Field(default=(), strict=False)
    """What it cannot do, or must not be used for."""
    base_licence: str = "not stated"
    """Licence of the base model."""
    data_licence: str = "not stated"
    """Licence of the training data."""
    watts: Annotated[float, Field(gt=0)] | None = None
    """Power that the training machine draws, for the energy estimate; assumed when null."""


class Policy(Document):
    """One registered model and the rules of its promotion."""

    model: Name
    """Name in the MLflow model registry."""
    gates: Annotated[list[Gate], Field(min_length=1)]
    """All must pass."""
    principals: tuple[str, ...] = Field(default=(), strict=False)
    """Who may promote and roll back; everybody when empty."""
    holdout_budget: Annotated[int, Field(ge=1)] = 20
    """How many models may be judged on the same holdout; past it, promotion needs --reuse-holdout."""
    package: Literal["adapter", "merged"] = "adapter"
    """Whether a version carries the adapter alone, or also weights that it has been merged into."""
    after_promotion: Hook | None = None
    """What runs when the champion has changed; its failure is recorded and changes nothing."""
    card: Card = Card()
    """What the model card says besides what was recorded."""
    rollout: Rollout = Rollout()
    """How a candidate is tried."""
    monitor: Monitor = Monitor()
    """When to worry."""
