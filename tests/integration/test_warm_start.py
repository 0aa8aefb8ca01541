"""Winners of earlier sweeps are found by base, data and range, and tried after the grid."""

import pytest

from tunesmith.config import SearchSpace
from tunesmith.sweep import earlier
from tunesmith.tracking import runs

OWN = {"method.learning_rate": 1e-3, "method.batch_size": 4, "method.epochs": 1}


@pytest.fixture
def space(root):
    return SearchSpace.from_yaml(root / "search_spaces/smoke.yaml")


def sweep(*, base="b", data="d", status="FINISHED", **best):
    run = runs.create("smoke", "sweep", kind="sweep", tags={"base_sha256": base, "data_sha256": data})
    run.params({f"best.method.{name}": value for name, value in best.items()})
    run.finish(status)
    return run.id


def test_the_same_data_come_first_then_the_newest(store, space):
    other = sweep(data="other", learning_rate=2e-3, epochs=2)
    old = sweep(learning_rate=3e-3, batch_size=2)
    new = sweep(learning_rate=4e-3)
    found = earlier.winners(space, OWN, base="b", data="d", most=3)
    assert [one.run_id for one in found] == [new, old, other]
    assert [one.same_data for one in found] == [True, True, False]
    assert found[1].params == {"method.learning_rate": 3e-3, "method.batch_size": 2, "method.epochs": 1}
    assert [one.run_id for one in earlier.winners(space, OWN, base="b", data="d", most=1)] == [new]


def test_what_does_not_fit_is_left_out(store, space):
    sweep(base="another", learning_rate=2e-3)
    sweep(status="KILLED", learning_rate=2e-3)
    sweep(learning_rate=0.9)
    sweep()
    kept = sweep(learning_rate=2e-3)
    sweep(learning_rate=2e-3, data="other")
    assert [one.run_id for one in earlier.winners(space, OWN, base="b", data="d", most=9)] == [kept]


def test_a_sweep_that_was_given_more_trials_has_one_winner(store, space):
    first = sweep(learning_rate=2e-3)
    second = sweep(learning_rate=3e-3)
    runs.attach(second).tags({"extends": first})
    assert [one.run_id for one in earlier.winners(space, OWN, base="b", data="d", most=9)] == [second]
