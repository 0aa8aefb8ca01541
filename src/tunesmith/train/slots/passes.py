"""Which rows of which slots run through the base together."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.train.encode import Labelled
from tunesmith.train.slots.batch import count_nodes

Key = Hashable


@dataclass(frozen=True)
class Limits:
    """How many tokens a pass may have.

    Slots join one pass while it stays within `fuse` tokens: beyond that the products with the frozen
    weights are as efficient as they get, and fusing would only cost. A single slot's rows are spread over
    several passes beyond `most` tokens, which memory allows.
    """

    fuse: int
    most: int


def plan_passes(rows: Mapping[Key, Sequence[Labelled]], limits: Limits) -> list[dict[Key, list[Labelled]]]:
    """Passes in which every row of every slot appears once; a pure function, slots in the order given."""
    passes: list[dict[Key, list[Labelled]]] = []
    room = 0
    for key, own in rows.items():
        for chunk in _chunks(own, limits.most):
            size = count_nodes(chunk)
            if size > room or key in passes[-1]:
                passes.append({})
                room = min(limits.fuse, limits.most)
            passes[-1][key] = chunk
            room -= size
    return passes


def _chunks(rows: Sequence[Labelled], most: int) -> list[list[Labelled]]:
    """Rows in their order, cut where the next one would exceed `most` tokens."""
    if count_nodes(rows) <= most:
        return [list(rows)]
    chunks: list[list[Labelled]] = [[]]
    size = 0
    for row in rows:
        length = len(row.input_ids)
        if chunks[-1] and size + length > most:
            chunks.append([])
            size = 0
        chunks[-1].append(row)
        size += length
    return chunks
