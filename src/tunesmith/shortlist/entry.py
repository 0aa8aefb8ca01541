"""What is found out about each candidate."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tunesmith.models.licences import Licence

ZERO_SHOT, FEW_SHOT = "zero-shot", "few-shot"
BITS = "reference/bits_per_byte"


@dataclass(frozen=True)
class Estimate:
    """A mean over the sanity set with its 95% interval, and each item's value by row id."""

    mean: float
    low: float
    high: float
    values: Mapping[str, float] = field(repr=False)


@dataclass(frozen=True)
class Speed:
    """Tokens per second of a batch, without and with the backward pass: medians, and their lowest and highest."""

    forward: tuple[float, float, float]
    training: tuple[float, float, float]


@dataclass(frozen=True)
class Facts:
    """What a model's files say, with the data as it reads them.

    `tokens` are the 50th, 95th and 99th percentile of a training row's tokens; `memory_mb` is estimated by kind of
    adapter, empty for what cannot be trained here.
    """

    parameters: int
    kind: str
    encoder_decoder: bool
    context: int | None
    tokens: tuple[int, int, int]
    per_word: float
    per_byte: float
    licence: Licence
    memory_mb: Mapping[str, float]


@dataclass(frozen=True)
class Entry:
    """A candidate: what is known of it, what it scored (by setting and metric), and what went wrong."""

    reference: str
    facts: Facts | None = None
    scores: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    speed: Speed | None = None
    notes: tuple[str, ...] = ()
