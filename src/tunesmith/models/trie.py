"""Token sequences as a tree, in which equal beginnings are there once."""

from collections.abc import Sequence


class Trie:
    """Nodes that sequences of tokens grow: a node is a token together with all tokens before it.

    `ids` and `positions` are those of the nodes, `children` the node behind a node (-1: the root) and a token.
    """

    def __init__(self, first: int = 0) -> None:
        self.first = first
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.children: dict[tuple[int, int], int] = {}

    def add(self, row: Sequence[int]) -> list[int]:
        """The node of each token of a row, whose first token has the position `first`."""
        node, path, children = -1, [], self.children
        for position, token in enumerate(row, self.first):
            key = (node, token)
            found = children.get(key)
            if found is None:
                found = children[key] = len(self.ids)
                self.ids.append(token)
                self.positions.append(position)
            node = found
            path.append(node)
        return path


def shared_tokens(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    for n, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return n
    return min(len(first), len(second))
