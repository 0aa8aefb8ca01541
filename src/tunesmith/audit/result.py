"""What a check gives back, and what kind of check it is."""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tunesmith.audit.material import Material
from tunesmith.records import Row, Severity


class Action(enum.StrEnum):
    """What curation does with the rows that a check caught."""

    NONE = "none"
    DROP = "drop"
    EDIT = "edit"


@dataclass(frozen=True)
class Result:
    """What a check found.

    `rows` maps the position of each row it caught to the reason; no reason quotes a row. `share` is
    compared with the check's limit. A check without a limit decides `passed` itself. A check that
    could not be made says why in `skipped`.
    """

    rows: Mapping[int, str]
    share: float = 0.0
    detail: str = ""
    passed: bool | None = None
    count: int | None = None
    examples: tuple[str, ...] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    skipped: str = ""


@dataclass(frozen=True)
class Check:
    """A check of one quality: what it looks for, how grave that is, which limit it has and what mends it."""

    name: str
    quality: str
    find: Callable[[Material], Result]
    severity: Severity = Severity.BLOCK
    limit: str | None = None
    """The field of `data.audit` that bounds the share."""
    action: Action = Action.NONE
    guess: bool = False
    """Whether it estimates rather than knows. Curation acts on a guess only while the share is beyond the
    limit: among sound rows there is always a most doubtful one, and curation would never end."""
    edit: Callable[[Row, Material], Row | None] | None = None
    """Gives the row mended; None when it cannot be."""


def caught(rows: Mapping[int, str], of: int, noun: str, **more: object) -> Result:
    """A result whose share is that of the caught among `of` things called `noun`."""
    share = len(rows) / max(1, of)
    return Result(rows, share=share, detail=f"{share:.2%} of {noun}", **more)  # type: ignore[arg-type]
