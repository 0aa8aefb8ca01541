"""A search's trials are judged by one loss, whatever each is trained by."""

import dataclasses

import pytest
from tests.methods import experiment

from tunesmith.config import overrides
from tunesmith.sweep.protocol import Job
from tunesmith.sweep.workbench import Workbench
from tunesmith.train.recorder import Unheard


@pytest.mark.parametrize(
    ("kind", "slots", "change"),
    [
        ("dpo", True, {"method.beta": 0.5, "method.loss": "hinge"}),
        ("dpo", False, {"method.beta": 0.5, "method.loss": "hinge"}),
        ("kto", False, {"method.unwanted_weight": 2.0}),
    ],
)
def test_what_a_search_varies_does_not_change_how_it_is_judged(tmp_path, kind, slots, change):
    """Else whatever makes the same replies cost least would win; these policies have hardly left the reference."""
    made = overrides.apply(experiment(tmp_path, kind), {"method.learning_rate": 1e-4})
    bench, found = Workbench(made), []
    for n, own in enumerate(({}, change)):
        job = Job(overrides.apply(made, own), "tune", str(tmp_path / f"{n}"), fractions=(1.0,), slots=slots)
        trained = bench.execute(job, Unheard()).trained
        assert (trained.engine == "slots") == slots
        found.append(trained.metrics)
    assert found[1]["tune/loss"] == pytest.approx(found[0]["tune/loss"], rel=0.02)
    assert found[1]["train/loss"] > 1.2 * found[0]["train/loss"]


@pytest.mark.parametrize(
    ("kind", "slots", "model"),
    [
        *((kind, True, "tiny-llama") for kind in ("sft", "dpo")),
        *((kind, False, "tiny-llama") for kind in ("sft", "dpo", "kto", "reward")),
        ("sft", False, "tiny-t5"),
    ],
)
def test_the_base_has_the_tune_loss_that_trials_begin_with(tmp_path, kind, slots, model):
    """By the same loss over the same rows, so that the two can be compared; a policy is its own reference."""
    short = {"method.learning_rate": 1e-9, "method.epochs": 1, "model.base": f"bundled:{model}"}
    made = overrides.apply(experiment(tmp_path, kind), short)
    bench = Workbench(made)
    job = Job(made, "trial", str(tmp_path / "trial"), loss_rows=5, slots=slots)
    begun = bench.execute(job, Unheard()).trained
    assert (begun.engine == "slots") == slots
    base = bench.score(dataclasses.replace(job, train=False))
    assert base.metrics["tune/loss"] == pytest.approx(begun.metrics["tune/loss"], rel=1e-4)
    without = bench.score(dataclasses.replace(job, train=False, loss_rows=None))
    assert "tune/loss" not in without.metrics
