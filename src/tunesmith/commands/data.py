"""`tunesmith data`: versions of a data set."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from tunesmith import summary
from tunesmith.commands.options import json_option
from tunesmith.progress import Progress

if TYPE_CHECKING:
    from tunesmith.data.versions import DataDiff

SHOWN = 5


@click.group("data")
def data() -> None:
    """Compare versions of a data set."""


@data.command("diff")
@click.argument("a")
@click.argument("b")
@json_option
def diff_command(a: str, b: str) -> tuple[Any, str]:
    """Name the rows that were added, removed and edited from A to B.

    A and B are each an experiment (its current data), a data file, a folder or a hub data set. Rows
    are matched by id. The text shows a few of each kind; --json lists all.
    """
    from tunesmith.data.versions import DataReference, diff

    with Progress() as progress:
        found = diff(DataReference.parse(a), DataReference.parse(b), watch=progress.count)
    return diff_value(found), diff_text(found)


def diff_value(found: "DataDiff") -> dict[str, Any]:
    """A difference for machines."""
    sides = {
        side: {"source": version.name, "rows": len(version.rows), "sha256": dict(version.roots)}
        for side, version in (("a", found.before), ("b", found.after))
    }
    changes = {"added": found.added, "removed": found.removed, "edited": found.edited, "moved": found.moved}
    return {**sides, "same": found.same, **changes}


def diff_text(found: "DataDiff") -> str:
    """A difference with its counts, roots, and a few ids of each kind."""
    lines = [
        f"{side} {version.name}: {len(version.rows)} rows, SHA-256 {version.roots['all'][:16]}"
        for side, version in (("A", found.before), ("B", found.after))
    ]
    if found.same:
        order = found.before.roots["all"] == found.after.roots["all"]
        lines.append("the same rows" if order else "the same rows in another order")
        return "\n".join(lines)
    edited = [f"{key} ({', '.join(fields)})" for key, fields in found.edited.items()]
    moved = [f"{key} ({old} → {new})" for key, (old, new) in found.moved.items()]
    kinds = (("+", "added", found.added), ("-", "removed", found.removed), ("~", "edited", edited))
    for mark, kind, names in (*kinds, ("!", "moved to another split", moved)):
        if names or kind in {"added", "removed", "edited"}:
            lines.append(f"{mark} {len(names)} {kind}{some(names)}")
    parts = [name for name in found.before.roots if name != "all"]
    if parts:
        lines += ["", summary.table(("split", "rows in A", "rows in B", "SHA-256"), [_split(found, p) for p in parts])]
    return "\n".join(lines)


def some(names: Iterable[str]) -> str:
    """The first few names, to follow a count."""
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return f": {', '.join(listed[:SHOWN])}{more}" if listed else ""


def _split(found: "DataDiff", name: str) -> tuple[str, str, str, str]:
    old, new = found.before.roots[name], found.after.roots[name]
    digests = "unchanged" if old == new else f"{old[:8]} → {new[:8]}"
    return name, str(found.before.count(name)), str(found.after.count(name)), digests
