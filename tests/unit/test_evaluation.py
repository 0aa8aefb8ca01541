"""lm-eval on a live model: scores by known answers, and the fast path against the harness's own."""

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from tunesmith.config.experiment import AdapterConfig
from tunesmith.config.task import Task
from tunesmith.errors import ConfigError, EvaluationError
from tunesmith.evaluate.harness import live_model, score
from tunesmith.evaluate.live import LiveModel
from tunesmith.models.loading import adapter_effect, attach_fresh, detach

QUESTIONS = [
    {"id": f"q{n}", "group": f"q{n}", "question": q, "choices": choices, "answer": n % 3}
    for n, (q, choices) in enumerate(
        [
            (
                "What is the capital of France, of which many songs are sung?",
                ["Paris", "Rome", "a very long wrong answer"],
            ),
            ("Which is hot?", ["ice", "fire", "snow"]),
            ("What is the capital of France, of which many songs are sung?", ["Oslo", "P", "Lima"]),
        ]
    )
]
SYSTEM = {"role": "system", "content": "You are the desk of a utility."}
ROWS = [
    {
        "id": f"r{n}",
        "group": "g",
        "intent": "billing",
        "messages": [
            SYSTEM,
            {"role": "user", "content": text},
            {"role": "assistant", "content": "Pay.\nRoute: billing"},
        ],
    }
    for n, text in enumerate(["When?", "How much is it, and must I pay?", "Why?"])
]


@pytest.fixture
def task(tmp_path):
    def make(text: str, name: str = "task") -> Task:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        return Task.from_yaml(path)

    return make


def run(model, tokenizer, task, rows, name="task"):
    return score(model, tokenizer, {name: task}, {name: rows}, split="tune", batch_size=2)


@pytest.mark.parametrize(("softmax", "tolerance"), [(None, 1e-6), ("float32", 1e-5)])
def test_the_fast_path_gives_the_harness_own_log_likelihoods(tuned_model, tokenizer, softmax, tolerance):
    requests = [
        ((context, reply), tokenizer(context)["input_ids"], tokenizer(reply)["input_ids"])
        for context in ("The same beginning of a prompt: a", "The same beginning of a prompt: bcd", "else")
        for reply in (" yes", " no, never", "x")
    ]
    options = {"pretrained": tuned_model, "tokenizer": tokenizer, "batch_size": 2, "add_bos_token": False}
    options["softmax_dtype"] = softmax
    fast = LiveModel(**options)._loglikelihood_tokens(requests)
    slow = HFLM(**options)._loglikelihood_tokens(requests, disable_tqdm=True)
    for (ours, our_greedy), (theirs, their_greedy) in zip(fast, slow, strict=True):
        assert ours == pytest.approx(theirs, abs=tolerance)
        assert our_greedy == their_greedy
    one_token = fast[2][0]
    assert (float(torch.tensor(one_token, dtype=torch.float32)) == one_token) == bool(softmax)


def test_multiple_choice_agrees_with_likelihoods_computed_by_hand(tuned_model, tokenizer, task):
    scored = run(tuned_model, tokenizer, task("measure: multiple_choice\n"), QUESTIONS)
    for question in QUESTIONS:
        sums = []
        for choice in question["choices"]:
            prompt = tokenizer(f"Question: {question['question']}\nAnswer:")["input_ids"]
            whole = tokenizer(f"Question: {question['question']}\nAnswer: {choice}")["input_ids"]
            logs = torch.log_softmax(tuned_model(torch.tensor([whole])).logits[0], -1)
            sums.append(sum(logs[n - 1, whole[n]].item() for n in range(len(prompt), len(whole))))
        right = max(range(3), key=sums.__getitem__) == question["answer"]
        assert scored.items["task"][question["id"]]["acc"] == float(right)
    assert scored.metrics["tune/task/acc"] == pytest.approx(
        sum(v["acc"] for v in scored.items["task"].values()) / len(QUESTIONS)
    )


def test_extraction_and_rouge_score_known_replies(tuned_model, tokenizer, task, monkeypatch):
    calls = []

    def generate(self, requests):
        calls.append(len(requests))
        return ["Pay.\nRoute: billing", "Pay.\nRoute: outages", "no route"]

    monkeypatch.setattr(LiveModel, "_greedy", generate)
    tasks = {
        "intent": task("measure: extract\npattern: 'Route: ([a-z]+)\\s*$'\n", "intent"),
        "reply": task("measure: rouge\n", "reply"),
    }
    scored = score(tuned_model, tokenizer, tasks, dict.fromkeys(tasks, ROWS), split="tune", batch_size=2)
    assert calls == [3]  # both tasks share their generations
    assert [scored.items["intent"][f"r{n}"]["exact_match"] for n in range(3)] == [1.0, 0.0, 0.0]
    rouge = [scored.items["reply"][f"r{n}"]["rouge_l"] for n in range(3)]
    assert rouge[0] == 1.0 > rouge[1] > rouge[2]
    assert scored.metrics["tune/intent/exact_match"] == pytest.approx(1 / 3)


def test_a_live_model_answers_only_once_and_times_its_replies(tuned_model, tokenizer, task, monkeypatch):
    tasks = {"reply": task("measure: rouge\nmax_tokens: 12\n", "reply")}
    live = live_model(tuned_model, tokenizer, batch_size=2)
    assert live.latency is None
    options = {"split": "tune", "batch_size": 2, "live": live}
    part = score(tuned_model, tokenizer, tasks, {"reply": ROWS[:2]}, **options)
    latency = live.latency
    assert latency > 0
    asked = []
    greedy, likelihoods = LiveModel._greedy, LiveModel._likelihoods
    monkeypatch.setattr(LiveModel, "_greedy", lambda self, new: asked.append(len(new)) or greedy(self, new))
    monkeypatch.setattr(
        LiveModel, "_likelihoods", lambda self, new, size: asked.append(len(new)) or likelihoods(self, new, size)
    )
    whole = score(tuned_model, tokenizer, tasks, {"reply": ROWS}, **options)
    assert asked == [len(ROWS) - 2] * 2
    assert whole.items["reply"].items() >= part.items["reply"].items()
    afresh = score(tuned_model, tokenizer, tasks, {"reply": ROWS}, split="tune", batch_size=2)
    assert whole.metrics == pytest.approx(afresh.metrics, rel=1e-4)


def test_greedy_replies_agree_with_transformers(tuned_model, tokenizer, task):
    scored = run(tuned_model, tokenizer, task("measure: rouge\nmax_tokens: 12\n"), ROWS)
    replies = {s["id"]: s["filtered_resps"][0] for s in scored.samples if s["task"] == "task"}
    for row in ROWS:
        prompt = tokenizer.apply_chat_template(
            row["messages"][:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = tuned_model.generate(**prompt, max_new_tokens=12, do_sample=False)
        assert replies[row["id"]] == tokenizer.decode(
            output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True
        )


def test_rows_that_end_leave_the_batch(tuned_model, tokenizer):
    """Whatever token ends a reply, each row's reply is what it is alone."""
    from tunesmith.models.decoding import greedy

    base = tuned_model.get_base_model()
    contexts = [tokenizer(f"The same beginning: {text}")["input_ids"] for text in ("a", "bb", "ccc", "dddd", "e")]
    whole = [greedy(base, [context], limit=10, ends=set())[0] for context in contexts]
    for end in {token for reply in whole for token in reply}:
        together = greedy(base, contexts, limit=10, ends={end})
        assert together == [reply[: reply.index(end)] if end in reply else reply for reply in whole]


def test_each_token_but_the_first_takes_one_pass(tiny_model):
    from tunesmith.models.decoding import greedy

    passes = []
    tiny_model.base_model.register_forward_hook(lambda *_: passes.append(1))
    assert len(greedy(tiny_model, [[3, 4, 5]], limit=6, ends=set())[0]) == 6
    assert len(passes) == 1 + 5  # the context is read in one


def test_perplexity_is_per_token_of_the_reference(tuned_model, tokenizer, task):
    scored = run(tuned_model, tokenizer, task("measure: rouge\nmax_tokens: 2\n"), ROWS)
    total = count = 0.0
    for row in ROWS:
        prompt = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True)["input_ids"]
        whole = prompt + tokenizer(row["messages"][-1]["content"])["input_ids"]
        logs = torch.log_softmax(tuned_model(torch.tensor([whole])).logits[0], -1)
        total += sum(logs[n - 1, whole[n]].item() for n in range(len(prompt), len(whole)))
        count += len(whole) - len(prompt)
    assert scored.metrics["tune/task/perplexity"] == pytest.approx(torch.tensor(-total / count).exp().item(), rel=1e-5)


def test_scores_compare_only_under_equal_settings(tuned_model, tokenizer, task):
    short, long = task("measure: rouge\nmax_tokens: 2\n"), task("measure: rouge\nmax_tokens: 3\n", "long")
    first = run(tuned_model, tokenizer, short, ROWS)
    assert first.digest == run(tuned_model, tokenizer, short, ROWS).digest
    assert first.digest != run(tuned_model, tokenizer, long, ROWS).digest
    assert first.digest != run(tuned_model, tokenizer, short, ROWS[:2]).digest


def test_an_adapter_without_effect_fails(tiny_model, tuned_model, tokenizer):
    assert adapter_effect(tuned_model, tokenizer, "hello") > 0
    base = detach(tuned_model)
    fresh = attach_fresh(base, AdapterConfig(rank=4, alpha=8.0), seed=1).eval()
    with pytest.raises(EvaluationError, match=r"the adapter changes the logits by 0\.0"):
        adapter_effect(fresh, tokenizer, "hello")


def test_a_detached_base_is_untouched(tiny_model, tokenizer):
    inputs = tokenizer("hello", return_tensors="pt")
    before = tiny_model(**inputs).logits
    model = attach_fresh(tiny_model, AdapterConfig(rank=4, alpha=8.0), seed=1)
    for name, weight in model.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(weight)
    assert not torch.equal(model(**inputs).logits, before)
    assert torch.equal(detach(model)(**inputs).logits, before)
    assert not any("lora" in name for name, _ in tiny_model.named_parameters())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("measure: extract\npattern: 'Route'\n", "the pattern needs exactly one group"),
        ("measure: extract\npattern: 'Route: ('\n", "not a regular expression"),
        ("measure: extrct\n", "measure: input should be 'extract', 'extractive', .*, not 'extrct'"),
    ],
)
def test_a_wrong_task_is_refused(task, text, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        task(text)
