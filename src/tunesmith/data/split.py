"""Which split a group of rows belongs to: a pure function of the group's name.

Because nothing but the name decides, rows added later never move an old row to another split.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from tunesmith.records import Row


def split_of(group: str, shares: Mapping[str, float]) -> str:
    """Name the split of `group`.

    The first 60 bits of the SHA-256 of the name give a uniform number in [0, 1); the split is the
    one whose cumulative share covers it, in the order of `shares` (fractions that sum to 1).
    """
    position = int(hashlib.sha256(group.encode()).hexdigest()[:15], 16) / 16**15
    edge = 0.0
    for name, share in shares.items():
        edge += share
        if position < edge:
            return name
    return name


def stratified(rows: Iterable[Row], count: int, *, by: str) -> tuple[Row, ...]:
    """A subset of at most `count` rows that takes turns between the values of field `by`.

    Within a value, rows come in the order of the SHA-256 of their ids, so that the subset depends
    neither on the file's order nor on chance. The result keeps the order of `rows`.
    """
    rows = list(rows)
    strata: dict[object, list[int]] = defaultdict(list)
    for index in sorted(range(len(rows)), key=lambda i: _hash(rows[i]["id"])):
        strata[rows[index].get(by)].append(index)
    turns = [(turn, _hash(str(value)), index) for value, s in strata.items() for turn, index in enumerate(s)]
    chosen = sorted(index for _, _, index in sorted(turns)[:count])
    return tuple(rows[index] for index in chosen)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
