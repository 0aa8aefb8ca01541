"""Encoder–decoder models: trained, scored, packaged and served by the same commands, on a tiny T5 built in code."""

import json
import pathlib
import shutil

import mlflow
import pytest
import torch
from lm_eval.api.instance import Instance
from tests.methods import METHODS, conversations, experiment
from tests.versions import scores, write_policy

from tunesmith import promotion
from tunesmith.config import Experiment, Policy, overrides
from tunesmith.config.experiment import AdapterConfig, ModelConfig
from tunesmith.config.task import Task
from tunesmith.errors import ModelError
from tunesmith.evaluate.live import LiveModel
from tunesmith.evaluate.prompts import make_doc
from tunesmith.models.architecture import ENCODER_DECODER, check_method
from tunesmith.models.device import place
from tunesmith.models.encoder_decoder import closed, greedy_targets, target_logprobs
from tunesmith.models.loading import attach_fresh, load_base, load_tokenizer
from tunesmith.models.references import resolve
from tunesmith.registry import against_base, evidence, merged, versions
from tunesmith.sweep.protocol import Done, Ended, Job, Paused, Segment, Sharing, Train
from tunesmith.sweep.segments import Segments
from tunesmith.sweep.workbench import Workbench
from tunesmith.tracking import runs
from tunesmith.train import seq2seq

BASE = "bundled:tiny-t5"
TURNS = [("user", "Why?"), ("assistant", "So."), ("user", "And now?"), ("assistant", "Wait.")]
ROW = {"id": "r", "group": "g", "messages": [{"role": role, "content": content} for role, content in TURNS]}


class Quiet:
    """Hears how trainings go, and the coordinator's end of a worker's pipe."""

    def __init__(self):
        self.losses, self.ended = [], {}

    def begin(self, steps, *, step=0):
        self.steps = steps

    def metrics(self, values, *, step):
        self.losses += [values["train/loss"]] if "train/loss" in values else []

    def rung(self, fraction, *, step, tune_loss):
        self.last = tune_loss

    def send(self, message):
        if isinstance(message, Ended):
            self.ended[message.key] = message.outcome

    def stopping(self):
        return False

    def answer(self):
        return ()


@pytest.fixture(scope="module")
def t5_tokenizer():
    return load_tokenizer(resolve(BASE))


@pytest.fixture(scope="module")
def tuned():
    """The tiny T5 in float64 with an adapter that has an effect."""
    base = load_base(resolve(BASE), place(ModelConfig(base=BASE, dtype="float32", device="cpu")))
    model = attach_fresh(base, AdapterConfig(rank=4, alpha=8.0), seed=1)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)  # with less it only repeats the start token
    return model.double().eval()


def on_t5(folder, kind="sft", **values):
    more = {"reward_model": "x"} if kind == "rlhf" else {}
    made = experiment(folder, kind, method=more)
    return overrides.apply(made, {"model.base": BASE, "dtype": "float32", **values})


def test_every_reply_is_a_target_and_its_source_all_that_stands_before(t5_tokenizer):
    first, second = seq2seq.encode_row(ROW, t5_tokenizer, max_length=64)
    end = t5_tokenizer.eos_token
    assert t5_tokenizer.decode(first.source) == f"user: Why?\nassistant:{end}"
    assert t5_tokenizer.decode(first.target) == f"So.{end}"
    assert t5_tokenizer.decode(second.source) == f"user: Why?\nassistant: So.\nuser: And now?\nassistant:{end}"
    assert not first.truncated
    cut = seq2seq.encode_row(ROW, t5_tokenizer, max_length=4)[1]
    assert t5_tokenizer.decode(cut.source) == f"nt:{end}"  # the newest of it
    assert t5_tokenizer.decode(cut.target) == "Wait"
    assert (cut.truncated, cut.supervised) == (True, 4)


def test_a_target_has_the_likelihood_that_the_model_itself_gives_it(tuned, t5_tokenizer):
    contexts = [t5_tokenizer(text)["input_ids"] for text in ("user: a\nassistant:", "a much longer source")]
    targets = [[t5_tokenizer(text)["input_ids"] for text in texts] for texts in (("So.", "Never ever"), ("b",))]
    network = tuned.get_base_model()
    found = target_logprobs(network, contexts, targets)
    for context, group, values in zip(contexts, targets, found, strict=True):
        source = torch.tensor([closed(context, t5_tokenizer.eos_token_id)])
        for target, (value, _) in zip(group, values, strict=True):
            with torch.no_grad():
                loss = network(input_ids=source, labels=torch.tensor([target])).loss.item()
            assert value == pytest.approx(-loss * len(target), rel=1e-9)
    replies = greedy_targets(network, contexts, limit=5, ends={t5_tokenizer.eos_token_id})
    alone = [greedy_targets(network, [one], limit=5, ends={t5_tokenizer.eos_token_id})[0] for one in contexts]
    assert replies == alone
    assert 0 < max(map(len, replies)) <= 5
    certain = target_logprobs(network, contexts, [[reply, [*reply[:-1], 0]] for reply in replies])
    assert [flag for group in certain for _, flag in group] == [True, False, True, False]


def test_a_reply_with_stop_words_is_no_longer_than_asked_for(tuned, t5_tokenizer):
    live = LiveModel(pretrained=tuned, tokenizer=t5_tokenizer, batch_size=2, add_bos_token=False, backend="seq2seq")
    plain = {"until": [], "do_sample": False, "max_gen_toks": 6}
    source = f"user: a long source\nassistant:{t5_tokenizer.eos_token}"
    asked = [(source, {**plain, "until": until}) for until in ([], ["never to be said"])]
    fast, slow = (live.generate_until([Instance("generate_until", {}, args, 0)])[0] for args in asked)
    assert slow == fast
    assert fast


def test_the_tokens_of_a_reply_are_counted_alone(t5_tokenizer, tmp_path):
    (tmp_path / "task.yaml").write_text("measure: likelihood\n")
    task = Task.from_yaml(tmp_path / "task.yaml")
    merging = MergingTokenizer(t5_tokenizer)
    assert make_doc(ROW, task, merging)["reply_tokens"] == len("Wait.") - 1
    assert make_doc(ROW, task, merging, separate=True)["reply_tokens"] == len("Wait.")


class MergingTokenizer:
    """Reads `:W` as one token, so that a reply behind its prompt is one shorter than alone."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, texts, **options):
        return self.tokenizer([text.replace(":W", "W") for text in texts], **options)

    def apply_chat_template(self, *arguments, **options):
        return self.tokenizer.apply_chat_template(*arguments, **options)


def test_accumulated_passes_weigh_every_target_token_alike(tmp_path):
    rows = conversations()
    for n, row in enumerate(rows):
        row["messages"][-1]["content"] = "a" * (1 + 5 * (n % 4))
    losses = []
    for micro in (None, 1):
        made = overrides.apply(
            experiment(tmp_path / str(micro), "sft", rows=rows, method={"epochs": 1, "micro_batch": micro}),
            {"model.base": BASE, "dtype": "float32"},
        )
        heard = Quiet()
        Workbench(made).execute(Job(made, "tune", str(tmp_path / str(micro)), fractions=(1.0,)), heard)
        losses.append([*heard.losses, heard.last])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_trial_pauses_at_a_rung_and_goes_on_without_slots(tmp_path):
    made = on_t5(tmp_path)
    bench = Workbench(made)
    job = Job(made, "trial", str(tmp_path / "a"), fractions=(0.5, 1.0), loss_rows=4, slots=True)
    for until, outcome in ((0.5, Paused), (1.0, Done)):
        heard = Quiet()
        Segments(bench, Train((Segment("a", job, until),), Sharing(1, 1, 60.0)), heard).run()
        assert isinstance(heard.ended["a"], outcome), heard.ended
    assert heard.ended["a"].trained.engine.startswith("transformers: T5ForConditionalGeneration is not one of")


@pytest.mark.parametrize("kind", [kind for kind in METHODS if kind != "sft"])
def test_other_methods_are_refused_in_one_line(tmp_path, kind):
    with pytest.raises(ModelError, match=rf"method\.kind: {kind} trains decoder-only models") as caught:
        check_method(ENCODER_DECODER, on_t5(tmp_path, kind))
    assert "use method sft, or another base" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_command_refuses_it_before_it_trains(store, invoke):
    done = invoke("dpo", "experiments/support-dpo.yaml", "--set", f"model.base={BASE}")
    assert done.exit_code == 2
    assert "method.kind: dpo trains decoder-only models" in done.stderr.splitlines()[-1]


SMOKE = "experiments/smoke.yaml"
SMALL = ("--set", f"model.base={BASE}", "--set", "data.train_rows=16")


def test_the_commands_train_score_package_and_serve_it(store, invoke, tmp_path):
    done = invoke("sft", SMOKE, *SMALL, "--json")
    assert done.exit_code == 0, done.stderr
    assert "assistant:⟦ " in done.stderr
    run = runs.attach(json.loads(done.stdout)["run_id"])
    assert run.tag("engine") == "transformers"
    done = invoke("evaluate", run.id, "--experiment", SMOKE, *SMALL, "--suite", "reply", "--json")
    assert done.exit_code == 0, done.stderr

    made = overrides.apply(Experiment.from_yaml(SMOKE), {"model.base": BASE})
    evidence.save(run, candidate=scores(50), base=scores(10))
    policy = Policy.from_yaml(write_policy(store))
    version = versions.get("bot", promotion.register(made, policy, run.id, scores(50)))
    package = versions.verify(version)
    config = json.loads((package / "adapter/adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_2_SEQ_LM"
    served = mlflow.pyfunc.load_model(f"models:/bot/{version.number}")
    request = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 4}
    answer = served.predict(request)
    assert 1 <= answer["usage"]["completion_tokens"] <= 4
    assert answer["choices"][0]["message"]["content"] == greedy_answer(package, "user: Why?\nassistant:")
    merged.add(pathlib.Path(shutil.copytree(package, tmp_path / "copy")))
    assert (tmp_path / "copy/merged/model.safetensors").is_file()


def greedy_answer(package: pathlib.Path, source: str) -> str:
    model = against_base.load(package).model
    tokenizer = load_tokenizer(resolve(BASE))
    ids = tokenizer(source, add_special_tokens=False)["input_ids"]
    (tokens,) = greedy_targets(model.get_base_model(), [ids], limit=4, ends={tokenizer.eos_token_id})
    return tokenizer.decode(tokens, skip_special_tokens=True)
