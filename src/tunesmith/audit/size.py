"""Size: whether there are enough rows, and what that many are good for."""

from tunesmith.audit.material import Material
from tunesmith.audit.result import Check, Result
from tunesmith.records import Severity

BANDS = (
    (1_000, "few: each row counts, so read them; more of them would help most"),
    (5_000, "enough for one domain: quality decides now, not quantity"),
    (None, "many: see whether half of them do as well, and prefer the better half"),
)


def enough(material: Material) -> Result:
    """Whether the source has the rows that the experiment asks for."""
    count = len(material.rows)
    detail = f"rows; at least {material.limits.min_rows} wanted"
    return Result({}, detail=detail, passed=count >= material.limits.min_rows, count=count)


def band(material: Material) -> Result:
    """What the number of training rows is good for; guidance, never a limit."""
    count = len(material.train)
    advice = next(text for limit, text in BANDS if limit is None or count < limit)
    return Result({}, detail=f"training rows, {advice}", passed=True, count=count)


CHECKS = (Check("size", "size", enough), Check("size band", "size", band, severity=Severity.NOTE))
