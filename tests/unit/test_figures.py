"""The figures of the sweep's report: what they show follows from the record."""

import dataclasses

from tests.search_records import halved, infeasible, sweep, trial

from tunesmith.sweep import figures


def test_a_diverged_trial_does_not_squash_the_others():
    losses = [2.0, 2.1, 2.2, 2.3, 2.4, 900.0]
    assert 2.4 < figures.ceiling(losses) < 4.0
    assert figures.ceiling(losses[:-1]) is None
    record = sweep(*(trial(n, losses={20: loss}) for n, loss in enumerate(losses)), base_loss=None)
    assert figures.tune_curves(record).layout.yaxis.range[1] < 4.0
    assert figures.history(record).layout.yaxis.range[1] < 4.0


def test_a_bar_is_marked_at_rungs_alone():
    """A trial's tune loss may be known from between them too."""
    record = dataclasses.replace(sweep(trial(0), halved(1)), rungs=(0.2, 1.0))
    (marks,) = [trace for trace in figures.ladder(record).data if trace.name == "went on"]
    assert (list(marks.y), list(marks.x)) == (["trial 0"], [200.0])


def test_the_ladder_stacks_what_was_left_out_on_what_was_trained():
    figure = figures.ladder(sweep(trial(0), halved(1), infeasible(2)))
    bars = {trace.name: dict(zip(trace.y, trace.x, strict=True)) for trace in figure.data if trace.type == "bar"}
    assert bars == {
        "halved at 20%": {"trial 1": 200},
        "trained in full": {"trial 0": 1000},
        "infeasible": {"trial 2": 100},
        "not trained": {"trial 1": 800},
    }


def test_curves_are_coloured_by_the_rung_that_was_reached():
    record = sweep(trial(0), halved(1), halved(2, losses={20: 2.4, 60: 2.2}))
    colours = {trace.name: trace.line.color for trace in figures.train_curves(record).data}
    assert list(colours) == ["halved at 20%", "halved at 60%", "trained in full"]
    assert len(set(colours.values())) == 3
