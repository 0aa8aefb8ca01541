"""The worker's side of a sweep: segments that pause, share a base, are cut off and go on, bit for bit."""

import dataclasses
import pathlib
import re
from functools import partial

import pytest
import torch
from tests.conftest import ROOT
from tests.methods import experiment as experiment_of
from tests.segments import FUSED, Ear, run, segment

from tunesmith.config import Experiment, overrides
from tunesmith.errors import DiskError
from tunesmith.sweep import workbench
from tunesmith.sweep.protocol import Done, Failed, Inherited, Interrupted, Paused, Refused, Sharing, StepMetrics, Train
from tunesmith.sweep.relay import Relay
from tunesmith.sweep.segments import Segments
from tunesmith.sweep.workbench import Workbench


@pytest.fixture(scope="module")
def experiment():
    smoke = Experiment.from_yaml(ROOT / "experiments/smoke.yaml")
    return overrides.apply(smoke, {"data.train_rows": 24, "method.epochs": 2})


@pytest.fixture(scope="module")
def bench(experiment):
    return Workbench(experiment)


@pytest.fixture(scope="module")
def three(bench, experiment, tmp_path_factory):
    """Three different trainings side by side, never interrupted: their adapters' SHA-256."""
    return adapters(run(bench, trio(experiment, tmp_path_factory.mktemp("whole"))))


def trio(experiment, folder, until=1.0):
    return [
        segment(experiment, folder, "a", until=until, learning_rate=5e-3),
        segment(experiment, folder, "b", until=until, learning_rate=2e-3, batch_size=8, scheduler="constant"),
        segment(experiment, folder, "c", until=until, learning_rate=1e-3, epochs=1, weight_decay=0.1),
    ]


def adapters(ear):
    ends = ear.ends()
    assert all(isinstance(outcome, Done) for outcome in ends.values()), ends
    return {key: outcome.trained.adapter_sha256 for key, outcome in ends.items()}


def test_a_training_pauses_on_each_rung_and_ends_as_if_it_never_had(bench, experiment, tmp_path):
    straight = run(bench, [segment(experiment, tmp_path / "straight")])
    losses = {}
    for until, fraction in ((0.25, 0.25), (0.5, 0.5)):
        ear = run(bench, [segment(experiment, tmp_path / "paused", until=until)])
        outcome = ear.ends()["a"]
        assert isinstance(outcome, Paused)
        assert (outcome.fraction, outcome.step) == (fraction, round(12 * fraction))
        assert outcome.tokens > 0
        losses |= ear.losses("a")
    last = run(bench, [segment(experiment, tmp_path / "paused")])
    assert adapters(last) == adapters(straight)
    assert losses | last.losses("a") == straight.losses("a")
    ours, theirs = (ear.ends()["a"].trained for ear in (last, straight))
    assert ours.curves == theirs.curves
    assert ours.metrics["train/tokens"] == theirs.metrics["train/tokens"]


@pytest.mark.parametrize("stop_after", [1, 5, 17])
def test_trainings_that_share_passes_go_on_from_one_cut_bit_for_bit(bench, experiment, tmp_path, three, stop_after):
    cut = run(bench, trio(experiment, tmp_path), Ear(stop_after=stop_after))
    assert isinstance(cut.messages[-1], Interrupted)
    ended = cut.ends()
    again = run(bench, [one for one in trio(experiment, tmp_path) if one.key not in ended])
    assert adapters(again) | {key: outcome.trained.adapter_sha256 for key, outcome in ended.items()} == three


def test_a_cut_that_was_not_completed_is_not_used(bench, experiment, tmp_path, three, monkeypatch):
    """Killed while the second of three was saved: all go on from the cut before."""
    from tunesmith.sweep import segments
    from tunesmith.train.slots.training import SlotTraining

    monkeypatch.setattr(segments, "CHECKPOINT_SECONDS", 0.0)
    save, calls = SlotTraining.save, []

    def dies(training):
        calls.append(training.key)
        if len(calls) == 11:
            raise KeyboardInterrupt
        save(training)

    monkeypatch.setattr(SlotTraining, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        run(bench, trio(experiment, tmp_path))
    steps = {key: max(int(p.name[5:]) for p in (tmp_path / key / "checkpoints").iterdir()) for key in "abc"}
    assert steps == {"a": 4, "b": 3, "c": 3}
    monkeypatch.undo()
    assert adapters(run(bench, trio(experiment, tmp_path))) == three


def test_a_free_place_is_taken_at_once(bench, experiment, tmp_path):
    first = [segment(experiment, tmp_path, "a", epochs=1), segment(experiment, tmp_path, "b")]
    ear = run(bench, first, Ear(answers=[(segment(experiment, tmp_path, "c", epochs=1),)]))
    assert list(ear.ends()) == ["a", "c", "b"] or list(ear.ends()) == ["a", "b", "c"]
    order = [m.key for m in ear.messages if isinstance(m, StepMetrics) and "train/loss" in m.values]
    assert order.index("c") < len(order) - order[::-1].index("b") - 1


def test_a_training_that_diverges_fails_alone(bench, experiment, tmp_path, three):
    both = Segments(bench, Train(tuple(trio(experiment, tmp_path)), Sharing(1, 4096, 60)), ear := Ear())
    both.seats["b"].training.slot.weights.data.fill_(float("nan"))
    both.run()
    outcome = ear.ends()["b"]
    assert isinstance(outcome, Failed)
    assert outcome.user_error
    assert outcome.message.endswith("at step 1; lower method.learning_rate")
    assert outcome.spent.tokens > 0
    assert outcome.spent.seconds > 0
    assert (outcome.spent.steps, outcome.spent.fraction) == (6, 0.0)
    alone = run(bench, [segment(experiment, tmp_path / "alone", "a", learning_rate=5e-3)], sharing=Sharing(1, 4096, 60))
    assert ear.ends()["a"].trained.adapter_sha256 == adapters(alone)["a"]


def test_a_training_begins_with_another_ones_weights(bench, experiment, tmp_path):
    run(bench, [segment(experiment, tmp_path, "first", until=0.5)])
    warm = run(bench, [segment(experiment, tmp_path, "warm", start=str(tmp_path / "first"))])
    cold = run(bench, [segment(experiment, tmp_path, "cold")])
    assert warm.losses("warm")[1] < cold.losses("cold")[1]
    other = overrides.apply(experiment, {"adapter.rank": 2})
    refused = run(bench, [segment(other, tmp_path, "other", start=str(tmp_path / "first"))])
    assert "its adapter has another rank" in refused.ends()["other"].reason
    none = run(bench, [segment(experiment, tmp_path, "none", start=str(tmp_path / "nowhere"))])
    assert none.ends() == {"none": Refused(f"{tmp_path}/nowhere/checkpoints: holds no saved adapter to begin with")}


def test_a_training_that_begins_again_begins_with_the_same_weights_of_another(bench, experiment, tmp_path):
    """Killed before its first checkpoint, while the other has gone on."""
    first, clone = str(tmp_path / "first"), partial(segment, experiment, tmp_path, "clone")
    run(bench, [segment(experiment, tmp_path, "first", until=0.25)])
    cut = Segments(bench, Train((clone(start=first),), FUSED), Ear())
    assert cut.channel.of(Inherited) == [Inherited("clone", 3)]
    run(bench, [segment(experiment, tmp_path, "first")])
    again = run(bench, [clone(start=first)])
    assert again.of(Inherited) == [Inherited("clone", 3)]
    run(bench, [segment(experiment, tmp_path / "other", "first", until=0.25)])
    alike = run(bench, [segment(experiment, tmp_path / "other", "clone", start=str(tmp_path / "other" / "first"))])
    assert again.losses("clone") == alike.losses("clone")


def test_preference_pairs_train_in_slots_as_through_trl(tmp_path):
    settings = {"model.dtype": "float32", "method.learning_rate": 2e-3}
    pairs = overrides.apply(experiment_of(tmp_path / "rows", "dpo"), settings)
    bench = Workbench(pairs)
    both = [segment(pairs, tmp_path, "a", beta=0.3), segment(pairs, tmp_path, "b", loss="ipo", batch_size=2)]
    cut = run(bench, both, Ear(stop_after=7))
    assert isinstance(cut.messages[-1], Interrupted)
    ends = run(bench, both).ends()
    ours = ends["a"].trained
    assert {end.trained.engine for end in ends.values()} == {"slots"}
    job = dataclasses.replace(both[0].job, folder=str(tmp_path / "trl"), slots=False)
    theirs = bench.execute(job, Relay(Ear(), "a")).trained
    assert theirs.engine == "trl"
    assert theirs.curves.keys() <= ours.curves.keys()
    assert ours.metrics["train/tokens"] == theirs.metrics["train/tokens"]
    for name in ("train/loss", "train/grad_norm", "tune/loss", "tune/reward_margin", "tune/ranked_right"):
        assert [step for step, _ in ours.curves[name]] == [step for step, _ in theirs.curves[name]]
        for (_, one), (_, other) in zip(ours.curves[name], theirs.curves[name], strict=True):
            assert one == pytest.approx(other, rel=1e-2, abs=1e-4)


def test_a_full_disk_ends_the_work_and_not_the_trial(bench, experiment, tmp_path):
    pathlib.Path(tmp_path / "a").write_text("a file where the folder should be")
    with pytest.raises(DiskError, match="free some space and resume"):
        run(bench, [segment(experiment, tmp_path, until=0.25)])
    (tmp_path / "a").unlink()
    assert isinstance(run(bench, [segment(experiment, tmp_path, until=0.25)]).ends()["a"], Paused)


def test_a_disk_that_is_full_when_the_cut_is_noted_ends_the_work_alike(bench, experiment, tmp_path):
    segments = Segments(bench, Train((segment(experiment, tmp_path, until=0.25),), FUSED), Ear())
    (tmp_path / "cut-0.json").mkdir()
    with pytest.raises(DiskError, match=r"cut-0\.json: cannot be written .* free some space and resume"):
        segments.run()
    (tmp_path / "cut-0.json").rmdir()
    assert isinstance(run(bench, [segment(experiment, tmp_path, until=0.25)]).ends()["a"], Paused)


def test_memory_that_runs_out_together_may_suffice_alone(bench, experiment, tmp_path, monkeypatch):
    from tunesmith.train.slots.engine import Engine

    step = Engine.step

    def scarce(engine, keys=None):
        if len(list(keys)) > 1 or keys == ["b"]:
            for slot in engine.slots.values():
                slot.gradient.fill_(1.0)  # as a pass that was broken off leaves it
            raise torch.OutOfMemoryError("no memory")
        return step(engine, keys)

    monkeypatch.setattr(Engine, "step", scarce)
    ear = run(bench, trio(experiment, tmp_path))
    monkeypatch.undo()
    assert re.match(r"out of memory with 8 rows a pass: up to about \d+ MiB are needed", ear.ends()["b"].message)
    alone = run(bench, [segment(experiment, tmp_path / "alone", "a", learning_rate=5e-3)])
    assert ear.ends()["a"].trained.adapter_sha256 == adapters(alone)["a"]


@pytest.mark.parametrize("what", ["measure", "join"])
def test_memory_that_runs_out_beside_a_step_is_the_trials_own(bench, experiment, tmp_path, monkeypatch, what):
    from tunesmith.train.slots.engine import Engine

    whole = getattr(Engine, what)

    def scarce(engine, first, *rest):
        if "b" in (first, *first):
            torch.empty(2**50)
        return whole(engine, first, *rest)

    monkeypatch.setattr(Engine, what, scarce)
    ends = run(bench, trio(experiment, tmp_path)).ends()
    assert ends["b"].message.startswith("out of memory with 8 rows a pass")
    assert isinstance(ends["a"], Done)
    assert isinstance(ends["c"], Done)


def test_memory_that_runs_out_in_scoring_names_its_remedy(bench, experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(workbench, "score", lambda *args, **kwargs: torch.empty(2**50))
    (outcome,) = run(bench, [segment(experiment, tmp_path)]).ends().values()
    size = experiment.evaluation.batch_size
    told = f"out of memory while {size} items were scored at once; set a smaller evaluation.batch_size"
    assert isinstance(outcome, Failed)
    assert (outcome.message, outcome.user_error) == (told, True)
