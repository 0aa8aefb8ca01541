"""Preference rows: pairs that prefer nothing, that prefer length, or that prefer both ways."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.audit.material import Material
from tunesmith.audit.result import Action, Check, Result, caught
from tunesmith.audit.text import hash_text, normalise
from tunesmith.data.digest import canonical
from tunesmith.records import Row, Severity


def pairs(material: Material) -> dict[int, tuple[str, str, str]]:
    """Prompt, preferred and rejected reply of each preference row, normalised."""
    return {
        n: (said(row["prompt"]), said(row["chosen"]), said(row["rejected"]))
        for n, row in enumerate(material.rows)
        if "chosen" in row and "messages" not in row
    }


def said(turns: Sequence[Mapping[str, Any]]) -> str:
    """The text of turns, normalised."""
    return normalise("\n".join(str(turn.get("content")) for turn in turns))


def same_replies(material: Material) -> Result:
    """Rows whose two replies are the same words."""
    found = pairs(material)
    rows = {n: "prefers a reply to itself" for n, (_, chosen, rejected) in found.items() if chosen == rejected}
    return caught(rows, len(found), "pairs")


def repeated_pairs(material: Material) -> Result:
    """Rows that repeat another row's prompt and both replies to the letter."""
    seen: dict[int, int] = {}
    rows = {}
    found = pairs(material)
    for n in found:
        first = seen.setdefault(pair_key(material.rows[n]), n)
        if first != n:
            rows[n] = f"repeats {material.id(first)}"
    return caught(rows, len(found), "pairs")


def pair_key(row: Row) -> int:
    """Equal for rows with equal prompt and replies."""
    return hash_text(canonical([row["prompt"], row["chosen"], row["rejected"]]))


def length_bias(material: Material) -> Result:
    """How often the preferred reply is the longer one; a model learns that sooner than anything else."""
    lengths = [(len(chosen.split()), len(rejected.split())) for _, chosen, rejected in pairs(material).values()]
    unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    share = sum(unequal) / max(1, len(unequal))
    limit = material.limits.preferences.max_length_bias
    detail = (
        f"of {len(unequal)} pairs prefer the longer reply ({share:.0%}); between {1 - limit:.0%} and {limit:.0%} wanted"
    )
    passed = not unequal or 1 - limit <= share <= limit
    metrics = {"audit/prefers_longer": share}
    differences = tuple(float(chosen - rejected) for chosen, rejected in lengths)
    series = {"Words that the preferred reply has more": differences}
    return Result({}, detail=detail, passed=passed, count=sum(unequal), metrics=metrics, series=series)


def disagreement(material: Material) -> Result:
    """Rows whose preference another row (another annotator's) reverses."""
    votes: dict[tuple[str, frozenset[str]], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    found = pairs(material)
    for n, (prompt, chosen, rejected) in found.items():
        votes[prompt, frozenset((chosen, rejected))][chosen].append(n)
    rows = {
        n: "another row prefers the other reply"
        for sides in votes.values()
        if len(sides) > 1
        for side in sides.values()
        for n in side
    }
    return caught(rows, len(found), "pairs")


def checks(material: Material) -> tuple[Check, ...]:
    """The checks of preference rows; none when there are no such rows."""
    return CHECKS if pairs(material) else ()


CHECKS = (
    Check("same replies", "preferences", same_replies, limit="max_broken_rate", action=Action.DROP),
    Check("repeated pairs", "preferences", repeated_pairs, limit="max_duplicate_rate", action=Action.DROP),
    Check("length bias", "preferences", length_bias, severity=Severity.WARN),
    Check("disagreement", "preferences", disagreement, severity=Severity.WARN, limit="preferences.max_disagreement"),
)
