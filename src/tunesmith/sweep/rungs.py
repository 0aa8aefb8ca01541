"""Which trial goes on: asynchronous successive halving with pausing (Li et al., 2018). Pure."""

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """How far a trial got: its tune loss at each rung it reached, in order, and the rung it was sent to.

    Rungs are counted from 1; `sent` equals `len(losses)` while the trial is paused.
    """

    number: int
    losses: tuple[float, ...]
    sent: int

    @property
    def paused(self) -> bool:
        """Whether the trial waits to be sent on."""
        return self.sent == len(self.losses)


class Standings:
    """Where all trials stand, ordered by rung as they change: what a decision takes hardly grows with their number."""

    def __init__(self, standings: Iterable[Standing] = ()) -> None:
        self._by_number: dict[int, Standing] = {}
        self._reached: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
        self._waiting: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
        self._counts: Counter[tuple[int, int]] = Counter()
        for standing in standings:
            self.put(standing)

    def __getitem__(self, number: int) -> Standing:
        return self._by_number[number]

    def __iter__(self) -> Iterator[Standing]:
        return iter(self._by_number.values())

    def put(self, standing: Standing) -> None:
        """Take in how far a trial is now."""
        self.drop(standing.number)
        self._by_number[standing.number] = standing
        self._counts[len(standing.losses), standing.sent] += 1
        for ordered, key in self._places(standing):
            insort(ordered, key)

    def drop(self, number: int) -> None:
        """Forget a trial that the rungs judge no more, if it is known."""
        standing = self._by_number.pop(number, None)
        if standing is not None:
            self._counts[len(standing.losses), standing.sent] -= 1
            for ordered, key in self._places(standing):
                del ordered[bisect_left(ordered, key)]

    def _places(self, standing: Standing) -> Iterator[tuple[list[tuple[float, int]], tuple[float, int]]]:
        """The lists that a trial is in, with what it is ordered by there."""
        for rung, loss in enumerate(standing.losses, start=1):
            key = (loss, standing.number)
            yield self._reached[rung], key
            if rung == standing.sent:
                yield self._waiting[rung], key

    def reached(self, rung: int) -> int:
        """How many trials have reached a rung."""
        return len(self._reached[rung])

    def left(self, rung: int) -> int:
        """How many of them were sent beyond it."""
        return sum(count for (reached, sent), count in self._counts.items() if reached >= rung and sent > rung)

    def coming(self, rung: int) -> bool:
        """Whether a trial is on its way to this rung or a lower one."""
        return any(count for (reached, sent), count in self._counts.items() if sent <= rung and sent != reached)

    def first_waiting(self, rung: int) -> tuple[Standing, int] | None:
        """The best of those that wait on a rung, and how many that reached it were better."""
        if not self._waiting[rung]:
            return None
        key = self._waiting[rung][0]
        return self._by_number[key[1]], bisect_left(self._reached[rung], key)


@dataclass(frozen=True)
class Ladder:
    """Rungs at shares of a trial's own training, the last one being its end.

    At each rung one in `reduction` goes on, but when the search closes, at least `finishers` do: those that
    are to be confirmed should have been trained to the end.
    """

    rungs: tuple[float, ...]
    reduction: int
    finishers: int

    def promotable(self, standings: Standings, *, closing: bool) -> Standing | None:
        """The paused trial to send on next: from the highest rung that has one, the best there; None if none may.

        `closing` says that no new trial will come.
        """
        for rung in range(len(self.rungs) - 1, 0, -1):
            found = standings.first_waiting(rung)
            if found is not None:
                complete = closing and not standings.coming(rung) and not self._awaited(standings, rung)
                standing, better = found
                if better < self._quota(standings.reached(rung), complete=complete):
                    return standing
        return None

    def _quota(self, reached: int, *, complete: bool) -> int:
        """How many of those that reached a rung may leave it."""
        fair = reached // self.reduction
        return max(fair, min(self.finishers, reached)) if complete else fair

    def _awaited(self, standings: Standings, rung: int) -> bool:
        """Whether a lower rung may still send trials to this one."""
        return any(
            standings.left(lower) < self._quota(standings.reached(lower), complete=True) for lower in range(1, rung)
        )
