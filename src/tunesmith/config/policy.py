"""A registry policy: what a candidate must prove before the champion's alias moves to it."""

from typing import Annotated, Literal

from pydantic import Field

from tunesmith.config.experiment import Name, Share
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


class Policy(Document):
    """One registered model and the rules of its promotion."""

    model: Name
    """Name in the MLflow model registry."""
    gates: Annotated[list[Gate], Field(min_length=1)]
    """All must pass."""
    rollout: Rollout = Rollout()
    """How a candidate is tried."""
    monitor: Monitor = Monitor()
    """When to worry."""
