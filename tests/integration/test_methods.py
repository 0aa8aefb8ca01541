"""Every method of training passes the same behaviour suite, on the tiny models."""

import dataclasses
import functools
import pathlib

import pytest
import torch
from safetensors.torch import load_file
from tests.methods import METHODS, conversations, experiment, pairs

from tunesmith import manifest
from tunesmith.config import overrides
from tunesmith.data.dataset import load_dataset
from tunesmith.errors import ConfigError, DataError, ModelError
from tunesmith.records import TrainedRun
from tunesmith.sweep.protocol import Done, Job
from tunesmith.sweep.workbench import Workbench
from tunesmith.train.recorder import Recorder
from tunesmith.train.run import start_of
from tunesmith.train.trl import TrlTraining

CORE = {"train/loss", "train/learning_rate", "train/grad_norm", "tune/loss"}
T5 = "sft-on-an-encoder-decoder"
SUMMARY = {"train/seconds", "train/tokens", "train/peak_memory_mb", "train/trainable_share"}


class Listener:
    """Keeps what a training reports."""

    def __init__(self):
        self.steps, self.values, self.rungs = 0, {}, []

    def begin(self, steps, *, step=0):
        self.steps = steps

    def metrics(self, values, *, step):
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def rung(self, fraction, *, step, tune_loss):
        self.rungs.append((fraction, tune_loss))


@dataclasses.dataclass
class Outcome:
    """What one training left behind."""

    bench: Workbench
    job: Job
    done: Done
    listener: Listener

    @property
    def trained(self) -> TrainedRun:
        assert self.done.trained is not None
        return self.done.trained


@pytest.fixture(scope="module")
def outcome_of(tmp_path_factory):
    """Each method's training, made when it is first asked for."""
    root = tmp_path_factory.mktemp("methods")

    @functools.cache
    def make(kind: str, dtype: str = "float32") -> Outcome:
        folder = root / dtype / kind
        more = {"reward_model": str(adapter_of(make("reward", dtype)))} if kind == "rlhf" else {}
        method = {**more, "max_kl": 500.0} if more else None
        if kind == T5:
            made = overrides.apply(experiment(folder, "sft", dtype=dtype), {"model.base": "bundled:tiny-t5"})
        else:
            made = experiment(folder, kind, method=method, dtype=dtype)
        bench, listener = Workbench(made), Listener()
        job = Job(made, "tune", str(folder), fractions=(0.2, 1.0))
        return Outcome(bench, job, bench.execute(job, listener), listener)

    return make


def adapter_of(outcome: Outcome) -> pathlib.Path:
    return pathlib.Path(outcome.trained.adapter)


@pytest.fixture(params=[*METHODS, T5])
def outcome(request, outcome_of):
    return outcome_of(request.param)


def test_the_objective_improves(outcome):
    (_, early), (_, late) = outcome.listener.rungs
    assert late < early
    assert early - late > 0.003 * abs(early)


@pytest.mark.parametrize("kind", METHODS)
def test_a_method_trains_and_scores_alike_in_bfloat16(outcome_of, kind):
    """The precision of CUDA devices, and of CPUs that compute it faster."""
    outcome = outcome_of(kind, "bfloat16")
    assert outcome.bench.base.dtype == torch.bfloat16
    (_, early), (_, late) = outcome.listener.rungs
    assert late < early
    job = dataclasses.replace(outcome.job, train=False, adapter=str(adapter_of(outcome)))
    assert outcome.bench.score(job) == outcome.done.scores


def test_the_same_core_metrics_are_logged(outcome):
    assert set(outcome.listener.values) >= CORE
    assert set(outcome.trained.metrics) >= CORE | SUMMARY
    assert len(outcome.listener.values["train/loss"]) == outcome.listener.steps
    assert outcome.trained.metrics["train/tokens"] > 0


def test_the_saved_adapter_is_whole_and_scores_as_the_trained_one_did(outcome):
    adapter = adapter_of(outcome)
    manifest.verify(adapter)
    assert {path.suffix for path in adapter.iterdir()} <= {".safetensors", ".json", ".md"}
    again = outcome.bench.score(dataclasses.replace(outcome.job, train=False, adapter=str(adapter)))
    assert again == outcome.done.scores
    begun = outcome.bench.score(dataclasses.replace(outcome.job, train=False))
    assert begun.digest == again.digest
    assert not any("lora" in name for name, _ in outcome.bench.base.named_modules())


def test_a_stopped_training_goes_on_to_the_same_adapter(outcome, tmp_path):
    bench, whole = outcome.bench, outcome.job.experiment
    half = outcome.listener.steps // 2

    def run(stop):
        recorder = Recorder(bench.training_data(outcome.job), fractions=(1.0,), reporter=Listener())
        training = TrlTraining(start_of(bench.base, whole), bench.tokenizer, whole, recorder, tmp_path)
        with training.run(stop) as model:
            named = model.named_parameters()
            return training.step, {as_saved(name): w.clone() for name, w in named if w.requires_grad}

    assert run(lambda step: step == half)[0] == 0
    step, weights = run(lambda _: False)
    assert step == half
    saved = load_file(adapter_of(outcome) / "adapter_model.safetensors")
    for name, value in saved.items():
        found = weights[name]
        torch.testing.assert_close(found, value)


def as_saved(name):
    """A weight's name in the file of an adapter."""
    return name.replace(".default", "").replace(".modules_to_save", "")


QUESTION = {"question": "?", "choices": ["a", "b"], "answer": 0}
WRONG = [("sft", "pairs"), *((kind, "conversations") for kind in ("dpo", "kto", "reward")), ("rlhf", "questions")]
ROWS = {
    "pairs": (pairs, "is a preference pair, and method sft trains on a conversation; use method.kind"),
    "conversations": (conversations, "is a conversation, and method {} trains on"),
    "questions": (
        lambda: [{"id": f"q{n}", "group": f"q{n}", **QUESTION} for n in range(9)],
        "is a question, and method rlhf trains on a conversation or a preference pair or a KTO row; use other rows",
    ),
}


@pytest.mark.parametrize(("kind", "shape"), WRONG)
def test_rows_of_another_method_are_refused_in_one_line(tmp_path, kind, shape):
    rows, message = ROWS[shape]
    method = {"reward_model": "x"} if kind == "rlhf" else None
    with pytest.raises(DataError) as caught:
        load_dataset(experiment(tmp_path, kind, rows=rows(), method=method))
    assert "rows.jsonl:1: " in str(caught.value)
    assert message.format(kind) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_equal_replies_are_refused_with_their_line(tmp_path):
    rows = pairs(9)
    rows[2]["rejected"] = rows[2]["chosen"]
    with pytest.raises(DataError, match=r"rows\.jsonl:3: chosen and rejected are equal; drop the row"):
        load_dataset(experiment(tmp_path, "reward", rows=rows))


@pytest.mark.parametrize(
    ("kind", "method", "message"),
    [
        ("kto", {"micro_batch": 1}, r"method: micro_batch 1 leaves KTO nothing to estimate the KL divergence from"),
        ("kto", {"batch_size": 1}, r"method: batch_size 1 leaves KTO nothing"),
        ("kto", {"beta": 0.0}, r"method\.beta: input should be greater than 0, not 0\.0"),
        ("dpo", {"beta": 0.0}, r"method\.beta: input should be greater than 0, not 0\.0"),
        ("dpo", {"label_smoothing": 0.1}, r"method: loss sigmoid heeds no label_smoothing; use loss robust"),
        ("reward", {"beta": 0.1}, r"method\.beta: unknown key; known here: "),
        ("rlhf", {}, r"method\.reward_model: is required"),
        ("rlhf", {"reward_model": "x", "replies": 1}, r"method\.replies: input should be greater than or equal to 2"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(tmp_path, kind, method, message):
    with pytest.raises(ConfigError, match=message) as caught:
        experiment(tmp_path, kind, method=method)
    assert "\n" not in str(caught.value)


def test_a_wanted_reply_gets_more_reward_from_the_saved_head(outcome_of):
    outcome = outcome_of("reward")
    weights = load_file(adapter_of(outcome) / "adapter_model.safetensors")
    assert [name for name in weights if name.endswith("score.weight")]
    assert outcome.done.scores.metrics["tune/pairs/accuracy"] > 0.9
    assert outcome.done.scores.metrics["tune/pairs/accuracy_low"] > 0.5


def test_reward_divergence_length_and_entropy_are_logged_each_step(outcome_of):
    outcome = outcome_of("rlhf")
    for name in ("reward", "kl", "reply_tokens", "entropy"):
        assert len(outcome.listener.values[f"train/{name}"]) == outcome.listener.steps
    assert outcome.trained.metrics["tune/kl"] > 0
    assert {"tune/replies/reward", "tune/replies/tokens", "tune/task/exact_match"} <= set(outcome.done.scores.metrics)


def test_a_training_by_reinforcement_stops_at_its_limit_within_it(outcome_of, tmp_path):
    whole = outcome_of("rlhf")
    limit = max(whole.listener.values["train/kl"]) / 2
    made = experiment(tmp_path, "rlhf", method={**whole.job.experiment.method.model_dump(), "max_kl": limit})
    bench, listener = Workbench(made), Listener()
    done = bench.execute(Job(made, "tune", str(tmp_path), fractions=(1.0,)), listener)
    divergences = listener.values["train/kl"]
    assert max(divergences[:-1]) <= limit < divergences[-1]
    assert len(divergences) < listener.steps
    assert "the KL divergence passed method.max_kl" in done.trained.stopped
    assert done.trained.metrics["tune/kl"] < divergences[-1]


def test_a_reward_model_that_is_none_or_reads_other_tokens_is_refused(outcome_of, tmp_path):
    from tunesmith.models.judge import check_tokenizers, find_reward_model

    with pytest.raises(ModelError, match=r"method\.reward_model: nowhere: no adapter there"):
        find_reward_model("nowhere", tmp_path)
    with pytest.raises(ModelError, match=r"method\.reward_model: .*: is no reward model; train one with"):
        find_reward_model(str(adapter_of(outcome_of("sft"))), tmp_path)
    bench = outcome_of("reward").bench
    found = find_reward_model(str(adapter_of(outcome_of("reward"))), tmp_path)
    check_tokenizers(bench.tokenizer, found)
    other = type(bench.tokenizer).from_pretrained(found.path)
    other.chat_template = other.chat_template + " "
    with pytest.raises(ModelError, match=r"method\.reward_model: its chat template .* is not the policy's"):
        check_tokenizers(other, found)


def test_reference_values_are_computed_once_for_all_trials(outcome_of, monkeypatch, tmp_path):
    from tunesmith.train import reference

    outcome = outcome_of("kto")
    calls = []
    original = reference.policy_logprobs
    monkeypatch.setattr(reference, "policy_logprobs", lambda *a, **k: calls.append(1) or original(*a, **k))
    method = {"learning_rate": 1e-3, "epochs": 1}
    other = experiment(tmp_path, "kto", method=method)
    rank = other.model_copy(update={"adapter": other.adapter.model_copy(update={"rank": 2})})
    bench = Workbench(rank)
    recorder = Recorder(bench.training_data(outcome.job), fractions=(1.0,), reporter=Listener())
    from tunesmith.models.loading import attach_fresh, detach
    from tunesmith.train import kto

    model = attach_fresh(bench.base, rank.adapter, seed=9)
    kto.build_trainer(rank, model, bench.tokenizer, recorder.data, folder=tmp_path / "trl", callbacks=[])
    detach(model)
    assert calls == []


def test_the_reference_values_are_those_of_the_policy_before_training(outcome_of):
    outcome = outcome_of("kto")
    data = outcome.bench.training_data(outcome.job)
    row = data.tune[0]
    ids = torch.tensor([[*row.prompt, *row.reply]])
    logs = outcome.bench.base(ids).logits[0].float().log_softmax(-1)
    expected = sum(logs[len(row.prompt) - 1 + n, token].item() for n, token in enumerate(row.reply))
    assert data.reference.of([(row.prompt, row.reply)])[0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo", "robust", "apo_zero", "apo_down", "sigmoid_norm"])
def test_the_dpo_loss_of_a_shared_prompt_is_that_of_trl(outcome_of, tmp_path, loss):
    from trl import DPOTrainer

    from tunesmith.models.loading import attach_saved, release
    from tunesmith.train import dpo

    outcome = outcome_of("dpo")
    smoothing = 0.1 if loss == "robust" else 0.0
    made = experiment(tmp_path, "dpo", method={"loss": loss, "label_smoothing": smoothing})
    bench, rows = outcome.bench, outcome.bench.training_data(outcome.job).tune
    data = dataclasses.replace(bench.training_data(outcome.job), train=rows, yardstick=None)
    model = attach_saved(bench.base, adapter_of(outcome))
    with model.disable_adapter():
        data.reference.learn(model.get_base_model(), dpo.both(rows), batch_size=8)
    trainer = dpo.build_trainer(made, model, bench.tokenizer, data, folder=tmp_path / "trl", callbacks=[])
    columns = [trainer.train_dataset[n] for n in range(len(rows))]
    batch = trainer.data_collator(columns)
    with torch.no_grad():
        ours = trainer._compute_loss(model, batch, False).item()
        theirs = DPOTrainer._compute_loss(trainer, model, batch, False).item()
    measured = dpo.measure(model, rows, experiment=made, data=data)
    release(model)
    assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-3)
    assert measured["tune/loss"] == pytest.approx(theirs, rel=2e-3, abs=2e-3)
    assert theirs != pytest.approx(0.6931, abs=1e-2)
