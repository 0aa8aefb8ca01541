"""Segments that the slots engine does not cover: they pause, are cut off and go on through TRL."""

import math

import pytest
from tests.conftest import ROOT
from tests.segments import Ear, run, segment

from tunesmith.config import Experiment, overrides
from tunesmith.sweep import segments, workbench
from tunesmith.sweep.protocol import Done, Inherited, Interrupted, Paused, Routed, Warned
from tunesmith.sweep.workbench import Workbench
from tunesmith.train import trl
from tunesmith.train.slots.calibrate import most_tokens
from tunesmith.train.slots.engine import DEFAULT_LIMITS
from tunesmith.train.slots.network import Network


@pytest.fixture(scope="module")
def experiment():
    smoke = Experiment.from_yaml(ROOT / "experiments/smoke.yaml")
    return overrides.apply(smoke, {"data.train_rows": 24, "method.epochs": 2})


@pytest.fixture(scope="module")
def dropout(experiment):
    return overrides.apply(experiment, {"adapter.dropout": 0.1})


@pytest.fixture(scope="module")
def bench(experiment):
    return Workbench(experiment)


def test_what_the_engine_does_not_cover_pauses_too(bench, dropout, tmp_path):
    """Through TRL, with dropout: its random numbers go on where they were."""
    straight = run(bench, [segment(dropout, tmp_path / "straight")])
    assert straight.ends()["a"].trained.engine == "trl: adapter.dropout 0.1"
    paused = run(bench, [segment(dropout, tmp_path / "paused", until=0.5)])
    assert isinstance(paused.ends()["a"], Paused)
    again = run(bench, [segment(dropout, tmp_path / "paused", until=0.5)])  # its end was not heard of
    assert again.ends() == paused.ends()
    assert again.losses("a") == {}
    last = run(bench, [segment(dropout, tmp_path / "paused")])
    assert min(last.losses("a")) == 7
    assert paused.losses("a") | last.losses("a") == pytest.approx(straight.losses("a"), rel=1e-5)


def test_what_the_engine_does_not_cover_stops_when_told_and_goes_on(bench, dropout, tmp_path):
    cut = run(bench, [segment(dropout, tmp_path)], Ear(stop_after=3))
    assert isinstance(cut.messages[-1], Interrupted)
    last = run(bench, [segment(dropout, tmp_path)])
    assert isinstance(last.ends()["a"], Done)
    assert len(cut.losses("a") | last.losses("a")) == 12
    assert min(last.losses("a")) > 1


class Cut(Ear):
    """A coordinator whose worker is killed during a step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def stopping(self):
        if len(self.losses("a")) == self.step:
            raise KeyboardInterrupt
        return False


def test_a_training_that_is_killed_between_rungs_goes_on_from_where_it_was_last_saved(
    bench, dropout, tmp_path, monkeypatch
):
    straight = run(bench, [segment(dropout, tmp_path / "straight")])
    monkeypatch.setattr(segments, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trl, "MOST_SAVING", math.inf)
    cut = Cut(5)
    with pytest.raises(KeyboardInterrupt):
        run(bench, [segment(dropout, tmp_path / "cut")], cut)
    kept = sorted(path.name for path in (tmp_path / "cut" / "a" / "checkpoints").iterdir())
    assert kept == ["step-000004", "step-000005"]
    last = run(bench, [segment(dropout, tmp_path / "cut")])
    assert min(last.losses("a")) == 6
    assert cut.losses("a") | last.losses("a") == straight.losses("a")
    ours, theirs = (ear.ends()["a"].trained for ear in (last, straight))
    assert ours.adapter_sha256 == theirs.adapter_sha256
    assert ours.curves == theirs.curves
    assert ours.fingerprints == theirs.fingerprints
    assert list(ours.fingerprints) == [10, 12]
    assert ours.metrics["train/tokens"] == theirs.metrics["train/tokens"]


@pytest.mark.parametrize(("source", "clone"), [(0.1, 0.1), (0.0, 0.1), (0.1, 0.0)])
def test_a_training_begins_with_another_ones_weights_through_either_engine(bench, experiment, tmp_path, source, clone):
    source, clone = (overrides.apply(experiment, {"adapter.dropout": dropout}) for dropout in (source, clone))
    run(bench, [segment(source, tmp_path, "first", until=0.25)])
    tuned = run(bench, [segment(source, tmp_path, "first", until=0.5)])
    warm = run(bench, [segment(clone, tmp_path, "warm", until=0.25, start=str(tmp_path / "first"))])
    assert warm.of(Inherited) == [Inherited("warm", 6)]
    assert warm.losses("warm")[1] < tuned.losses("first")[4]
    other = overrides.apply(clone, {"adapter.rank": 2})
    refused = run(bench, [segment(other, tmp_path, "other", start=str(tmp_path / "first"))])
    assert "its adapter has another rank" in refused.ends()["other"].reason


def test_saving_that_takes_long_is_done_less_often(monkeypatch):
    clock, kept = [0.0], []
    monkeypatch.setattr(trl.time, "monotonic", lambda: clock[0])
    saving = trl.Saving(kept.append, 20.0)
    due = []
    for second in range(1, 200):
        clock[0] += 1.0
        if saving.due():
            due.append(second)
            saving.begin()
            clock[0] += 4.0 if len(due) == 1 else 0.1
            saving.end(second)
    assert due == kept == [20, 100, 120, 140, 160, 180]


def test_a_damaged_checkpoint_is_named_to_the_coordinator(bench, experiment, dropout, tmp_path):
    both = {"slots": experiment, "trl": dropout}
    run(bench, [segment(changed, tmp_path, key, until=0.25, epochs=1) for key, changed in both.items()])
    for key in both:
        (weights,) = (tmp_path / key / "checkpoints").glob("step-*/*.safetensors")
        weights.write_bytes(weights.read_bytes()[:-1])
    ear = run(bench, [segment(changed, tmp_path, key, until=0.25, epochs=1) for key, changed in both.items()])
    named = {warned.key: warned.text for warned in ear.of(Warned)}
    assert all("was changed since the folder was written; the checkpoint was set aside as" in t for t in named.values())
    assert set(named) == set(both)
    assert {routed.key: (routed.engine, routed.reason) for routed in ear.of(Routed)} == {
        "slots": ("slots", None),
        "trl": ("trl", "adapter.dropout 0.1"),
    }


def test_trials_that_the_engine_covers_fill_passes_though_the_experiment_itself_is_not_covered(bench, dropout):
    sharing = bench.calibrate(dropout)
    assert (sharing.fuse, sharing.most, sharing.seats(1)) == (1, DEFAULT_LIMITS.most, 1)


def test_limits_that_were_measured_with_more_memory_are_bounded_by_what_is_free_now(
    bench, experiment, tmp_path, monkeypatch
):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    measured = bench.calibrate(experiment)
    assert measured.most == DEFAULT_LIMITS.most
    monkeypatch.setattr(workbench, "calibrate", None)  # measured once
    monkeypatch.setattr(workbench, "free_memory_mb", lambda device: 4.0)
    bounded = bench.calibrate(experiment)
    assert bounded.most == most_tokens(Network(bench.base), 1.0) < measured.most
    assert bounded.fuse <= bounded.most
    assert bounded.ratios == measured.ratios
