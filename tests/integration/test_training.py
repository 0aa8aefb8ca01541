"""Real training: single runs through TRL, equal bits for equal seeds, and the bundled real model."""

import json
import pathlib

import pytest
import torch
from mlflow import MlflowClient
from tests.conftest import ROOT

from tunesmith.config import Experiment, overrides
from tunesmith.errors import TrainingError
from tunesmith.models.device import place
from tunesmith.models.loading import load_base, load_tokenizer
from tunesmith.models.references import resolve
from tunesmith.tracking.runs import Killed
from tunesmith.train.encode import encode_rows
from tunesmith.train.recorder import Recorder, TrainingData
from tunesmith.train.run import trained_adapter


class Listener:
    """Keeps what a training reports; stops it at a fraction if told to."""

    def __init__(self, stop_at: float = 2.0) -> None:
        self.values, self.rungs, self.stop_at = [], [], stop_at

    def begin(self, steps, *, step=0):
        self.steps = steps

    def metrics(self, values, *, step):
        self.values.append((step, values))

    def rung(self, fraction, *, step, tune_loss):
        self.rungs.append((fraction, tune_loss))
        if fraction >= self.stop_at:
            raise Killed("enough")


def train(experiment, folder, listener, *, rows=24, slots=False, quantise=False):
    from tunesmith.data.dataset import load_dataset

    dataset = load_dataset(experiment)
    model = resolve(experiment.model.base)
    tokenizer = load_tokenizer(model)
    base = load_base(model, place(experiment.model), **({"quantise": True} if quantise else {}))
    train_rows = encode_rows(dataset.train.rows[:rows], tokenizer, max_length=experiment.model.max_length)
    tune_rows = encode_rows(dataset.tune.rows[:8], tokenizer, max_length=experiment.model.max_length)
    recorder = Recorder(TrainingData(train_rows, tune_rows), fractions=(0.5, 1.0), reporter=listener)
    training = trained_adapter(base, tokenizer, experiment, recorder, folder=pathlib.Path(folder), slots=slots)
    with training as (_, trained):
        return trained


@pytest.fixture
def smoke():
    values = {"learning_rate": 5e-2, "epochs": 3}
    return overrides.apply(Experiment.from_yaml(ROOT / "experiments/smoke.yaml"), values)


def test_a_training_reports_its_curves_and_its_loss_falls(smoke, tmp_path):
    listener = Listener()
    trained = train(overrides.apply(smoke, {"epochs": 6}), tmp_path, listener)
    losses = [loss for _, loss in trained.curves["train/loss"]]
    assert listener.steps == len(losses) == 36
    assert losses[-1] < losses[0] - 0.3
    assert [fraction for fraction, _ in listener.rungs] == [0.5, 1.0]
    assert trained.metrics["tune/loss"] == listener.rungs[-1][1]
    assert 0 < trained.metrics["train/supervised_share"] < 1
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("slots", [False, True])
def test_equal_seeds_give_equal_bits_and_other_seeds_do_not(smoke, tmp_path, slots):
    first = train(smoke, tmp_path / "a", Listener(), slots=slots)
    second = train(smoke, tmp_path / "b", Listener(), slots=slots)
    other = train(overrides.apply(smoke, {"seed": 6}), tmp_path / "c", Listener(), slots=slots)
    assert first.adapter_sha256 == second.adapter_sha256 != other.adapter_sha256
    assert first.curves["train/loss"] == second.curves["train/loss"]


def test_accumulated_micro_batches_train_as_whole_batches_do(smoke, tmp_path):
    exact = overrides.apply(smoke, {"dtype": "float32", "learning_rate": 5e-3})
    whole = train(exact, tmp_path / "a", Listener())
    parts = train(overrides.apply(exact, {"micro_batch": 2}), tmp_path / "b", Listener())
    for (_, ours), (_, theirs) in zip(parts.curves["train/loss"], whole.curves["train/loss"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_training_stops_where_its_reporter_says(smoke, tmp_path):
    listener = Listener(stop_at=0.5)
    with pytest.raises(Killed):
        train(smoke, tmp_path, listener)
    assert len(listener.rungs) == 1
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("slots", "message"), [(False, "the loss became nan"), (True, "loss nan, gradient norm nan")], ids=["trl", "slots"]
)
def test_an_exploding_loss_fails_the_training(smoke, tmp_path, monkeypatch, slots, message):
    original = load_base

    def overflown(model, placement):
        base = original(model, placement)
        base.model.layers[1].mlp.down_proj.weight.data.fill_(float("nan"))
        return base

    monkeypatch.setitem(globals(), "load_base", overflown)
    with pytest.raises(TrainingError, match=rf"^{message} at step 1; lower method\.learning_rate$"):
        train(smoke, tmp_path, Listener(), slots=slots)


def test_the_slots_engine_trains_as_trl_does(smoke, tmp_path):
    exact = overrides.apply(smoke, {"dtype": "float32", "learning_rate": 5e-3, "weight_decay": 0.1})
    ours, theirs = (train(exact, tmp_path / name, Listener(), slots=name == "a") for name in "ab")
    assert (ours.engine, theirs.engine) == ("slots", "trl")
    for name in ("train/loss", "tune/loss", "train/learning_rate", "train/grad_norm"):
        assert [step for step, _ in ours.curves[name]] == [step for step, _ in theirs.curves[name]]
        for (_, one), (_, other) in zip(ours.curves[name], theirs.curves[name], strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=1e-9)


def test_what_the_slots_engine_does_not_cover_goes_through_trl_and_says_so(smoke, tmp_path):
    trained = train(overrides.apply(smoke, {"dropout": 0.1, "epochs": 1}), tmp_path, Listener(), slots=True)
    assert trained.engine == "trl: adapter.dropout 0.1"


def test_schedule_and_decay_reach_the_optimiser(smoke, tmp_path):
    listener = Listener()
    train(overrides.apply(smoke, {"scheduler": "linear", "warmup": 0.0}), tmp_path, listener)
    rates = [values["train/learning_rate"] for _, values in listener.values if "train/learning_rate" in values]
    assert rates[0] == pytest.approx(5e-2)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * rates[0]


def test_sft_writes_its_run(project, tunesmith, invoke):
    """Trained in a process of its own, whose standard output is one line, whatever the libraries have to say."""
    done = tunesmith("sft", "experiments/smoke.yaml", "--json", "--learning_rate", "2e-3", check=True)
    assert done.stdout.count("\n") == 1
    value = json.loads(done.stdout)
    assert "of the training tokens count in the loss" in done.stderr
    assert "⟦" in done.stderr
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    run = client.get_run(value["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["method.learning_rate"] == "0.002"
    assert {"tune/intent/exact_match", "train/peak_memory_mb", "train/trainable_share"} <= set(run.data.metrics)
    assert run.data.tags["tunesmith.overfit"] in {"true", "false"}
    assert {item.path for item in client.list_artifacts(run.info.run_id, "adapter")} == {
        f"adapter/{name}" for name in ("README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json")
    }
    scored = invoke("evaluate", value["run_id"], "--experiment", "experiments/smoke.yaml", "--json")
    assert scored.exit_code == 0, scored.stderr
    again = json.loads(scored.stdout)["model"]
    assert again == {name: value[name] for name in again}
    curves = client.download_artifacts(value["run_id"], "report/curves.svg", str(project))
    assert pathlib.Path(curves).read_text().startswith("<svg")
    told = json.loads(invoke("compare", "base", value["run_id"], "--json").stdout)
    assert told["split"] == "tune"
    changes = told["rivals"][0]["metrics"]
    assert changes["intent/exact_match"]["second"] == pytest.approx(value["tune/intent/exact_match"])
    assert changes["reply/perplexity"]["lower_is_better"] is True


@pytest.mark.slow
def test_the_bundled_real_model_learns(tmp_path):
    """A few steps on real rows with SmolLM2-135M: train and tune loss fall."""
    experiment = overrides.apply(
        Experiment.from_yaml(ROOT / "experiments/support.yaml"), {"learning_rate": 2e-3, "batch_size": 4, "epochs": 1}
    )
    trained = train(experiment, tmp_path, Listener(), rows=16)
    losses = [loss for _, loss in trained.curves["train/loss"]]
    assert losses[-1] < losses[0] - 0.5
    assert trained.curves["tune/loss"][-1][1] < trained.curves["tune/loss"][0][1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_cuda_runs_in_bfloat16(smoke, tmp_path):
    trained = train(overrides.apply(smoke, {"device": "cuda"}), tmp_path, Listener())
    losses = [loss for _, loss in trained.curves["train/loss"]]
    assert losses[-1] < losses[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_qlora_trains_on_cuda(smoke, tmp_path):
    trained = train(overrides.apply(smoke, {"adapter.kind": "qlora"}), tmp_path, Listener())
    assert trained.metrics["tune/loss"] > 0
