"""Dialogues: what a reply gains by what was said and by the handbook, under the base, and how that is named."""

from dataclasses import replace

import pytest
import torch

from tunesmith.config import Experiment
from tunesmith.config.overrides import apply
from tunesmith.config.task import Task
from tunesmith.data.tasks import load_items, load_tasks, turns_of
from tunesmith.errors import ConfigError
from tunesmith.evaluate.dialogue import APPROPRIATENESS, COHERENCE, SUPPORT, Scorer, contexts
from tunesmith.evaluate.harness import live_model, score, scorer_settings
from tunesmith.evaluate.knowledge import Evidence, read_passages
from tunesmith.evaluate.live import Base, LiveModel

SYSTEM = {"role": "system", "content": "You are the desk."}
SHA256 = "a" * 64
ROW = {
    "id": "d",
    "group": "g",
    "messages": [
        SYSTEM,
        {"role": "user", "content": "A bill came."},
        {"role": "assistant", "content": "Is it late?"},
        {"role": "user", "content": "Zzz."},
        {"role": "assistant", "content": "Then pay $8."},
    ],
}
REPLY = "A late fee of $8."


@pytest.fixture
def task(tmp_path):
    def make(more: str = "") -> Task:
        (tmp_path / "talk.yaml").write_text(f"measure: dialogue\nknowledge: book.txt\n{more}", encoding="utf-8")
        (tmp_path / "book.txt").write_text("A late bill costs $8.\n\nPipes freeze.\n", encoding="utf-8")
        return Task.from_yaml(tmp_path / "talk.yaml")

    return make


@pytest.fixture
def replies(monkeypatch):
    def give(text):
        monkeypatch.setattr(LiveModel, "_greedy", lambda self, requests: [text for _ in requests])

    return give


def scored(model, tokenizer, task, rows, sha256=SHA256):
    return scored_live(live_model(model, tokenizer, batch_size=4, base=Base(model, sha256)), task, rows)


def scored_live(live, task, rows):
    model, items = live.model, {"talk": rows}
    return score(model, live.tokenizer, {"talk": task}, items, split="bench", batch_size=4, live=live)


def mean_logprob(model, tokenizer, messages, reply):
    """The plain computation: one forward pass, the reply's tokens read off."""
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, reply))
    with torch.inference_mode(), model.disable_adapter():
        logits = torch.log_softmax(model(torch.tensor([before + after])).logits[0], -1)
    return sum(logits[len(before) - 1 + n, token].item() for n, token in enumerate(after)) / len(after)


def test_gains_are_differences_of_the_likelihoods_of_the_base_without_its_adapter(
    tuned_model, tokenizer, task, replies
):
    replies(REPLY)
    found = scored(tuned_model, tokenizer, task(), turns_of(ROW)).items["talk"]["d-turn-2"]
    asked = ROW["messages"][:-1]
    told = {**SYSTEM, "content": f"A late bill costs $8.\n\n{SYSTEM['content']}"}
    nothing = [SYSTEM, {"role": "user", "content": ""}]
    alone, last, whole, evidence = (
        mean_logprob(tuned_model, tokenizer, messages, REPLY)
        for messages in (nothing, [SYSTEM, asked[-1]], asked, [told, *asked[1:]])
    )
    gains = [found[f"{name}_unvalidated"] for name in (APPROPRIATENESS, COHERENCE, SUPPORT)]
    assert gains == pytest.approx([last - alone, whole - last, evidence - whole], abs=1e-5)
    assert min(map(abs, gains)) > 1e-4


def test_a_whole_model_is_measured_by_the_base_beside_it(tiny_path, tokenizer, task, replies):
    from transformers import AutoModelForCausalLM

    replies(REPLY)
    base, other = (AutoModelForCausalLM.from_pretrained(tiny_path).eval() for _ in range(2))
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.1)
    lives = [live_model(model, tokenizer, batch_size=4, base=Base(base, SHA256)) for model in (base, other)]
    first, second = (scored_live(live, task(), turns_of(ROW)) for live in lives)
    assert first.items["talk"] == second.items["talk"]


def test_each_reply_is_an_item_and_only_later_ones_have_coherence(tuned_model, tokenizer, task, replies):
    replies("")
    found = scored(tuned_model, tokenizer, task(), turns_of(ROW))
    assert list(found.items["talk"]) == ["d-turn-1", "d-turn-2"]
    assert set(found.groups.values()) == {"g"}
    assert set(found.items["talk"]["d-turn-1"]) == {f"{APPROPRIATENESS}_unvalidated"}  # "Is it late?" states nothing
    assert len(found.items["talk"]["d-turn-2"]) == 3
    assert set(found.metrics.values()) == {0.0}  # nothing said, nothing gained
    assert [sample["target"] for sample in found.samples] == ["Is it late?", "Then pay $8."]


def test_evidence_is_what_the_handbook_says_of_the_conversation_where_facts_are_called_for():
    asked = [SYSTEM, {"role": "user", "content": "Zzz."}]

    def found(passages, own="It is $8.", asked=asked):
        return contexts({"messages": [*asked, {"role": "assistant", "content": own}]}, Evidence(passages), 3)

    for passages, own in (((), "It is $8."), (("A late bill.",), "It is $8."), (("zzz",), "It depends.")):
        assert found(passages, own)["evidence"] == found(passages, own)["dialogue"] == asked
    assert found(["zzz", "Pipes"])["evidence"] == [{"role": "system", "content": "zzz\n\nYou are the desk."}, asked[1]]
    alone = found(["zzz"], asked=asked[1:])
    assert alone["evidence"] == [{"role": "user", "content": "zzz\n\nZzz."}]
    assert alone["nothing"] == [{"role": "user", "content": ""}]
    turns = [*asked, {"role": "assistant", "content": "b?"}, {"role": "user", "content": "x"}]
    told = found(["zzz", "b", "c"], asked=turns)["evidence"][0]["content"]
    assert sorted(told.splitlines()[:3]) == ["", "b", "zzz"]  # all that was said is searched for


@pytest.mark.parametrize(
    ("auc", "scorer", "label"), [(0.75, "a", ""), (0.74, "a", "_unvalidated"), (0.9, "b", "_unvalidated")]
)
def test_a_measure_not_known_to_work_with_this_base_says_so_in_its_name(
    tuned_model, tokenizer, task, replies, auc, scorer, label
):
    replies(REPLY)
    made = task(f"validity: {{scorer: {64 * scorer}, auc: {{{APPROPRIATENESS}: {auc}}}}}\n")
    found = scored(tuned_model, tokenizer, made, turns_of(ROW))
    assert f"bench/talk/{APPROPRIATENESS}{label}" in found.metrics
    assert f"bench/talk/{COHERENCE}_unvalidated" in found.metrics
    assert found.settings["scorer"] == SHA256


def test_scores_by_another_base_or_handbook_do_not_compare(task, tmp_path):
    made, scorer = task(), Scorer(list, SHA256)
    first = scorer_settings({"talk": made}, scorer)
    assert scorer_settings({"talk": made}, replace(scorer, sha256=64 * "b")) != first
    (tmp_path / "book.txt").write_text("A late bill costs $9 today.\n", encoding="utf-8")
    read_passages.cache_clear()
    assert scorer_settings({"talk": made}, scorer) != first


def test_the_demo_scores_every_turn_of_its_dialogues(root):
    experiment = Experiment.from_yaml(root / "experiments" / "support.yaml")
    task = load_tasks(experiment)["dialogue"]
    items = load_items({"dialogue": task}, experiment, "holdout")["dialogue"]
    assert len(items) == len({row["id"] for row in items}) == 2 * len({row["group"] for row in items})
    assert all(row["messages"][-1]["role"] == "assistant" for row in items)


def test_knowledge_that_is_not_there_is_named_before_anything_is_scored(root, tmp_path):
    experiment = Experiment.from_yaml(root / "experiments" / "support.yaml")
    (tmp_path / "talk.yaml").write_text("measure: dialogue\nknowledge: none.txt\n", encoding="utf-8")
    chosen = {"tasks": ["talk"], "suites": [], "forgetting": [], "tasks_dir": str(tmp_path), "primary": "tune/talk/x"}
    experiment = apply(experiment, {f"evaluation.{name}": value for name, value in chosen.items()})
    with pytest.raises(ConfigError, match=r"talk\.yaml:2: knowledge: there is no file .*none\.txt"):
        load_tasks(experiment)
