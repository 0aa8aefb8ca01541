"""Successive halving with pausing: who goes on, and when nobody may."""

import itertools
import random

import pytest

from tunesmith.sweep.rungs import Ladder, Standing, Standings

LADDER = Ladder((0.2, 0.6, 1.0), reduction=3, finishers=2)


def promotable(ladder, standings, *, closing):
    """The rule as it is told, from all standings anew."""

    def quota(reached, complete):
        fair = reached // ladder.reduction
        return max(fair, min(ladder.finishers, reached)) if complete else fair

    for rung in range(len(ladder.rungs) - 1, 0, -1):
        reached = [s for s in standings if len(s.losses) >= rung]
        complete = closing and not any(s.sent <= rung and not s.paused for s in standings)
        for lower in range(1, rung):
            below = [s for s in standings if len(s.losses) >= lower]
            complete = complete and sum(s.sent > lower for s in below) >= quota(len(below), complete=True)
        best = sorted(reached, key=lambda s: (s.losses[rung - 1], s.number))[: quota(len(reached), complete)]
        for standing in best:
            if standing.sent == rung:
                return standing
    return None


def waiting(number, *losses):
    return Standing(number, losses, len(losses))


def promoted(standings, *, closing=False, ladder=LADDER):
    found = ladder.promotable(Standings(standings), closing=closing)
    return found and (found.number, found.sent + 1)


def test_nobody_goes_on_before_a_rung_has_enough_to_compare():
    assert promoted([waiting(0, 1.0), waiting(1, 2.0)]) is None


def test_the_best_of_three_goes_on():
    assert promoted([waiting(0, 2.0), waiting(1, 1.0), waiting(2, 3.0)]) == (1, 2)


def test_one_that_was_sent_on_takes_its_place_in_the_quota():
    sent = Standing(1, (1.0,), 2)
    assert promoted([waiting(0, 2.0), sent, waiting(2, 3.0)]) is None
    assert promoted([waiting(0, 2.0), sent, *(waiting(n, 9.0) for n in range(2, 6))]) == (0, 2)


def test_a_higher_rung_comes_first():
    high = [waiting(n, 1.0 + n, 0.5 + n) for n in range(3)]
    low = [waiting(n, 0.1) for n in range(3, 12)]
    assert promoted([*high, *low]) == (0, 3)


def test_equal_losses_go_by_number():
    assert promoted([waiting(2, 1.0), waiting(0, 1.0), waiting(1, 1.0)]) == (0, 2)


def test_closing_lets_at_least_the_finishers_through():
    trials = [waiting(0, 1.0), waiting(1, 2.0), waiting(2, 3.0), waiting(3, 4.0)]
    assert promoted(trials, closing=True) == (0, 2)
    trials[0] = Standing(0, (1.0,), 2)
    assert promoted(trials, closing=True) == (1, 2)
    trials[:2] = [waiting(0, 1.0, 0.9), waiting(1, 2.0, 0.8)]
    assert promoted(trials, closing=True) == (1, 3)


def test_closing_waits_for_those_that_are_still_on_their_way():
    coming = Standing(3, (), 1)
    assert promoted([waiting(0, 1.0), waiting(1, 2.0), coming], closing=True) is None
    below = [Standing(0, (1.0, 0.9), 2), Standing(1, (2.0,), 2)]
    assert promoted(below, closing=True) is None


def test_without_halving_nobody_pauses():
    assert promoted([Standing(0, (1.0,), 1)], closing=True, ladder=Ladder((1.0,), 1, finishers=2)) is None


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("trials", [1, 2, 3, 4, 16, 40])
def test_every_search_ends_with_its_finishers_and_only_the_better_trials_trained(trials, workers):
    """A whole search with losses that keep their order: the best trial is always trained to the end."""
    for seed in range(20):
        rng = random.Random(seed)
        quality = rng.sample(range(100), trials)
        losses: dict[int, list[float]] = {}
        sent: dict[int, int] = {}
        running: list[int] = []
        kept = Standings()
        while True:
            standings = [Standing(n, tuple(losses[n]), sent[n]) for n in losses]
            for standing in rng.sample(standings, len(standings)):
                kept.put(standing)
            found = LADDER.promotable(kept, closing=len(losses) == trials)
            assert found == promotable(LADDER, standings, closing=len(losses) == trials)
            if found and len(running) < workers:
                sent[found.number] += 1
                running.append(found.number)
            elif len(losses) < trials and len(running) < workers:
                number = len(losses)
                losses[number], sent[number] = [], 1
                running.append(number)
            elif running:
                number = running.pop(rng.randrange(len(running)))
                losses[number].append(quality[number] / sent[number])
            else:
                break
        finished = [n for n in losses if len(losses[n]) == 3]
        assert min(range(trials), key=lambda n: quality[n]) in finished
        assert min(2, trials) <= len(finished) <= max(2, trials // 3)
        steps = sum(share for n in losses for share in itertools.islice((0.2, 0.4, 0.4), len(losses[n])))
        assert trials < 16 or steps < 0.55 * trials
