"""Which trial goes on: asynchronous successive halving with pausing (Li et al., 2018). Pure."""

from collections.abc import Sequence
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


@dataclass(frozen=True)
class Ladder:
    """Rungs at shares of a trial's own training, the last one being its end.

    At each rung one in `reduction` goes on, but when the search closes, at least `finishers` do: those that
    are to be confirmed should have been trained to the end.
    """

    rungs: tuple[float, ...]
    reduction: int
    finishers: int

    def promotable(self, standings: Sequence[Standing], *, closing: bool) -> Standing | None:
        """The paused trial to send on next: from the highest rung that has one, the best there; None if none may.

        `closing` says that no new trial will come.
        """
        for rung in range(len(self.rungs) - 1, 0, -1):
            reached = [standing for standing in standings if len(standing.losses) >= rung]
            complete = closing and not any(s.sent <= rung and not s.paused for s in standings)
            complete = complete and not self._awaited(standings, rung)
            quota = self._quota(len(reached), complete=complete)
            best = sorted(reached, key=lambda standing: (standing.losses[rung - 1], standing.number))[:quota]
            waiting = [standing for standing in best if standing.sent == rung]
            if waiting:
                return waiting[0]
        return None

    def _quota(self, reached: int, *, complete: bool) -> int:
        """How many of those that reached a rung may leave it."""
        fair = reached // self.reduction
        return max(fair, min(self.finishers, reached)) if complete else fair

    def _awaited(self, standings: Sequence[Standing], rung: int) -> bool:
        """Whether a lower rung may still send trials to this one."""
        for lower in range(1, rung):
            reached = [standing for standing in standings if len(standing.losses) >= lower]
            left = sum(1 for standing in reached if standing.sent > lower)
            if left < self._quota(len(reached), complete=True):
                return True
        return False
