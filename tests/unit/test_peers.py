"""What the benchmark of whole sweeps makes of its records."""

import pytest
from benchmarks.peers.report import against, curve, fastest, spread


def side(*trials, **facts):
    """A side whose trials are (seconds, loss, state)."""
    kept = [{"at": at, "judged": loss, "state": state} for at, loss, state in trials]
    return {"trials": kept, "seconds": max(at for at, _, _ in trials), "cut": False, "whole_s": 50.0, **facts}


def test_only_trials_that_came_to_their_end_improve_a_curve():
    found = side((30.0, 0.4, "complete"), (10.0, 0.9, "complete"), (20.0, 0.1, "pruned"), (40.0, 0.5, "complete"))
    assert curve(found) == [(10.0, 0.9), (30.0, 0.4)]


def test_sides_are_compared_at_one_percent_from_the_peers_best():
    peer = side((100.0, 1.0, "complete"), (200.0, 0.5, "complete"), (400.0, 0.6, "complete"))
    ours = side((10.0, 0.51, "complete"), (20.0, 0.504, "complete"))
    found = against(peer, ours)
    assert (found["peer_reached_s"], found["our_reached_s"]) == (200.0, 20.0)
    assert (found["times_to_target"], found["times_whole"], found["times_all"]) == (10.0, 20.0, 8.0)
    assert against(peer, side((10.0, 0.51, "complete")))["times_to_target"] is None


def test_a_goal_that_was_missed_counts_in_the_median():
    found = [{"times": value} for value in (7.4, 3.7, None)]
    assert spread(found, "times") == "3.7 (not reached to 7.4, seeds: 3)"
    assert spread(found[1:], "times") == "not reached (not reached to 3.7, seeds: 2)"


def test_a_peer_without_a_finished_trial_is_not_compared():
    assert against(side((10.0, 0.5, "pruned")), side((10.0, 0.5, "complete"))) is None


@pytest.mark.parametrize(("loss", "chosen"), [(0.5, "quick"), (0.6, "recipe")])
def test_flags_that_spoil_the_loss_are_not_chosen_for_their_speed(loss, chosen):
    flags = {"recipe": [{"seconds": 9.0, "loss": 0.5}], "quick": [{"seconds": 3.0, "loss": loss}]}
    assert fastest(flags, usual="recipe") == chosen
    assert fastest({}, usual="recipe") == "recipe"
