"""The data desk: what each check catches, what it leaves alone, and what curation does about it."""

import json
import re

import numpy as np
import pytest

from tunesmith.audit import (
    accuracy,
    contamination,
    diversity,
    duplicates,
    formatting,
    preferences,
    privacy,
    relevance,
    size,
    text,
)
from tunesmith.audit import checks as table
from tunesmith.audit.curate import curate, ledger_lines, put_back, restore, write_curated
from tunesmith.audit.material import Material, Reference, load_material, make_reference
from tunesmith.audit.similarity import make_space
from tunesmith.config import Experiment, overrides
from tunesmith.config.audit import AuditLimits, MeaningThresholds
from tunesmith.errors import ConfigError, DataError
from tunesmith.records import Severity

LABELS = ((re.compile(r"Route: ([a-z]+)\s*$"), "intent"),)
TFIDF = AuditLimits(meaning=MeaningThresholds(embeddings="tfidf"))


@pytest.fixture(scope="module")
def demo(root):
    """The demo's own rows, as `audit experiments/support.yaml` reads them, compared by TF-IDF."""
    experiment = Experiment.from_yaml(root / "experiments/support.yaml")
    return load_material(overrides.apply(experiment, {"data.audit.meaning.embeddings": "tfidf"}))


@pytest.fixture(scope="module")
def few(demo):
    """Eighty of the demo's rows: six scenarios, every split among them."""
    rows = [
        n for n, row in enumerate(demo.rows) if row["policy"] in {"late-fee", "street-leak", "net-metering", "ev-plan"}
    ]
    return demo.keep([demo.rows[n] for n in rows], [demo.splits[n] for n in rows])


def row(name="a", question="How do I pay?", answer="By card.\nRoute: billing", **more):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": name, "group": name, "intent": "billing", "messages": messages, **more}


def material(*rows, splits=None, **more):
    return Material(
        rows=rows, splits=tuple(splits or ["train"] * len(rows)), **{"limits": TFIDF, "labels": LABELS, **more}
    )


def with_row(base, new, split="train"):
    return base.keep([*base.rows, new], [*base.splits, split])


def caught(check, found):
    return {found.id(n) for n in check(found).rows}


def test_the_demo_passes_every_check_that_bars_training(demo):
    blocking = [check for check in table.all_checks(demo) if check.severity is Severity.BLOCK]
    found = table.report(demo, blocking)
    assert found.passed, found.failed
    assert found.metrics["audit/rows"] == 1320
    assert found.metrics["audit/holdout_overlap"] == 0.0
    assert {"task policy in train", "task general in train", "sanity in train"} <= {f.check for f in found.findings}


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("turns", [{"role": "user", "content": "x"}, {"role": "bot", "content": "y"}]),
        ("turns", [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]),
        ("turns", [{"role": "user", "content": "x"}]),
        ("turns", [{"role": "system", "content": "x"}]),
        ("empty turns", [{"role": "user", "content": " "}, {"role": "assistant", "content": "y"}]),
        ("empty turns", [{"role": "user"}, {"role": "assistant", "content": "y"}]),
        ("encoding", [{"role": "user", "content": "I donâ€™t know"}, {"role": "assistant", "content": "y"}]),
        ("encoding", [{"role": "user", "content": "l\ufffdst"}, {"role": "assistant", "content": "y"}]),
        ("encoding", [{"role": "user", "content": "a\x00b"}, {"role": "assistant", "content": "y"}]),
        ("markup", [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y<|im_end|>"}]),
        ("markup", [{"role": "user", "content": "[INST] x [/INST]"}, {"role": "assistant", "content": "y"}]),
        ("markup", [{"role": "user", "content": "### Instruction:\nx"}, {"role": "assistant", "content": "y"}]),
        ("markup", [{"role": "user", "content": "Dear {{name}}"}, {"role": "assistant", "content": "y"}]),
        ("answer format", [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]),
        ("answer format", [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y\nRoute: leaks"}]),
    ],
)
def test_a_broken_row_is_caught_by_the_check_of_its_kind(name, messages):
    check = next(check for check in formatting.CHECKS if check.name == name)
    found = material(row("good"), row("bad", messages=messages))
    assert caught(check.find, found) == {"bad"}


def test_sound_text_is_no_damage():
    harmless = "Déjà vu: naïve façade, 5 < 6 > 4, “quoted” – Ärger, [see 2], #3 and 100 % <3"
    found = material(row(question=harmless))
    assert not any(check.find(found).rows for check in formatting.CHECKS)


def test_misread_text_is_turned_back_and_lost_text_is_not():
    spoilt = row(question="It’s late – call".encode().decode("cp1252"))
    mended = formatting.repair_encoding(spoilt, material(spoilt))
    assert mended["messages"][0]["content"] == "It’s late – call"
    lost = row(question="It\ufffds late")
    assert formatting.repair_encoding(lost, material(lost)) is None


def test_the_later_copy_is_the_duplicate_but_a_held_out_row_stays():
    a, b, held_out = row("a"), row("b"), row("c")
    assert caught(duplicates.exact_duplicates, material(a, b)) == {"b"}
    assert caught(duplicates.exact_duplicates, material(a, b, held_out, splits=["train", "train", "bench"])) == {
        "a",
        "b",
    }


def test_a_retyped_row_is_a_near_duplicate_and_another_number_is_not(few):
    original = next(r for r in few.rows if r["policy"] == "late-fee" and len(r["messages"]) == 3)
    question, answer = (turn["content"] for turn in original["messages"][1:])
    retyped = {**original, "id": "retyped", "messages": [dict(turn) for turn in original["messages"]]}
    retyped["messages"][1]["content"] = f"hello!! {question.lower().replace('.', '')} thx"
    assert caught(duplicates.near_duplicates, with_row(few, retyped)) == {"retyped"}
    number = re.search(r"\d+", answer).group()
    retyped["messages"][2]["content"] = answer.replace(number, "77")
    assert caught(duplicates.near_duplicates, with_row(few, retyped)) == set()


def test_minhash_misses_few_pairs_that_are_alike(demo):
    """Every pair beyond the threshold that comparing all with all finds, among rows and retyped copies."""
    questions = list(demo.questions[:150])
    sets = {n: text.shingles(q) for n, q in enumerate([*questions, *(f"hi {q} thanks" for q in questions)])}
    alike = {(a, b) for a in sets for b in sets if a < b and text.jaccard(sets[a], sets[b]) >= 0.6}
    proposed = set(duplicates.candidates(sets))
    assert len(alike) >= 100
    assert len(alike & proposed) >= 0.9 * len(alike)
    assert len(proposed) < 0.1 * len(sets) ** 2 / 2


def test_the_same_question_with_another_answer_contradicts():
    first = row("a", "When is it due?", "In 21 days.\nRoute: billing")
    other = row("b", "when is it due", "In 14 days.\nRoute: billing")
    longer = row("c", "When is it due?!", "It is due in 21 days, as always.\nRoute: billing")
    assert caught(duplicates.contradictions, material(first, other)) == {"a", "b"}
    assert caught(duplicates.contradictions, material(first, longer)) == set()


def leak(demo, question, answer="It depends.\nRoute: leaks"):
    return row("leak", question, answer, policy="late-fee")


@pytest.mark.parametrize("change", [str, str.upper, "hi there, {} thanks in advance".format])
def test_a_leaked_row_is_caught(few, change):
    n = next(n for n, split in enumerate(few.splits) if split == "holdout" and len(few.questions[n].split()) > 12)
    question = few.rows[n]["messages"][1]["content"]
    spoilt = with_row(few, leak(few, change(question)))
    result = contamination.split_in_train(spoilt, name="holdout")
    assert caught(lambda m: contamination.split_in_train(m, name="holdout"), spoilt) == {"leak"}
    assert result.metrics["audit/holdout_overlap"] == pytest.approx(1 / few.splits.count("holdout"))
    assert contamination.split_in_train(spoilt, name="tune").share == 0.0


def test_a_leaked_task_item_is_caught_even_if_short(few):
    item = {"id": "legs", "group": "g", "question": "How many legs has a spider?", "choices": ["6", "8"], "answer": 1}
    reference = make_reference("task general", [item])
    spoilt = with_row(few, leak(few, "Hey, how many legs has a spider"))
    result = contamination.reference_in_train(spoilt, reference=reference)
    assert result.share == 1.0
    assert [spoilt.id(n) for n in result.rows] == ["leak"]
    assert contamination.reference_in_train(few, reference=reference).share == 0.0


def test_what_the_knowledge_says_gives_nothing_away():
    passage = "please read the meter between the twenty fifth and the last day of every month"
    rows = (row("a", f"So, {passage}?"), row("b", f"Is it true: {passage}"))
    exposed = material(*rows, splits=["train", "holdout"])
    assert contamination.split_in_train(exposed, name="holdout").share == 1.0
    declared = material(*rows, splits=["train", "holdout"], knowledge=(passage,))
    assert contamination.split_in_train(declared, name="holdout").share == 0.0


def test_shared_sentences_of_answers_are_reported_without_the_label_and_the_knowledge():
    sentence = "we will send somebody round to look at the meter within the next three working days for free"
    rows = (row("a", "Who comes?", f"{sentence}\nRoute: meters"), row("b", "When?", f"Well, {sentence}\nRoute: meters"))
    assert caught(contamination.answers_in_train, material(*rows, splits=["train", "holdout"])) == {"a"}
    declared = material(*rows, splits=["train", "holdout"], knowledge=(sentence,))
    assert caught(contamination.answers_in_train, declared) == set()


PRIVATE = {
    "e-mail": "jane.miller+x@mail.example.org",
    "card number": "4111 1111 1111 1111",
    "IBAN": "DE89 3704 0044 0532 0130 00",
    "national id": "123-45-6789",
    "telephone": "+44 20 7946 0123",
    "key": "AKIAIOSFODNN7EXAMPLE",
    "token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcDEF123",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----",
}


@pytest.mark.parametrize("kind", PRIVATE)
def test_private_values_are_caught_redacted_and_never_shown(kind):
    spoilt = material(row(question=f"Mine is {PRIVATE[kind]} if you need it"))
    checks = {check.name: check.find(spoilt) for check in privacy.CHECKS}
    name = "secrets" if kind in privacy.SECRETS else "personal data"
    assert checks[name].rows == {0: f"has {kind}"}
    assert PRIVATE[kind] not in str(table.report(spoilt, privacy.CHECKS))
    redacted = privacy.redact(spoilt.rows[0], spoilt)
    assert redacted["messages"][0]["content"] == f"Mine is [{kind}] if you need it"
    assert not any(check.find(material(redacted)).rows for check in privacy.CHECKS)


@pytest.mark.parametrize(
    "harmless",
    [
        "4111 1111 1111 1112",  # wrong check digit
        "DE88 3704 0044 0532 0130 00",
        "000-45-6789",
        "the 2026-11-25 at 10:30, meter 12345678",
        "$1,200 within 90 days, form G-2",
        "a-rather-long-hyphenated-compound-word",
        "https://riverbend.example/pay",
    ],
)
def test_numbers_that_only_look_private_are_left_alone(harmless):
    found = material(row(question=f"Is it {harmless}?"))
    assert not any(check.find(found).rows for check in privacy.CHECKS)


def test_published_telephone_numbers_are_nobodys():
    question = row(question="Is 555-0142 the right number?")
    assert caught(privacy.personal_data, material(question)) == {"a"}
    assert caught(privacy.personal_data, material(question, knowledge=("Call 555-0142.",))) == set()
    answers = [row(f"r{n}", f"Question {n}?", "Call 555-0142.\nRoute: billing") for n in range(10)]
    assert caught(privacy.personal_data, material(*answers)) == set()
    assert len(caught(privacy.personal_data, material(*answers[:9]))) == 9


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


def spoilt_rows(few):
    """The few rows, and one of each kind of damage."""
    base = next(r for r in few.rows if r["policy"] == "street-leak")
    question, answer = base["messages"][1]["content"], base["messages"][-1]["content"]
    n = next(n for n, split in enumerate(few.splits) if split == "holdout")

    def with_turns(name, *contents):
        turns = zip(("system", "user", "assistant"), (base["messages"][0]["content"], *contents), strict=True)
        return {**base, "id": name, "messages": [{"role": role, "content": content} for role, content in turns]}

    damaged = [
        {**base, "id": "copy"},
        with_turns("near", f"Hello! {question.lower()}", answer),
        with_turns("empty", question, ""),
        with_turns(
            "private", f"Another matter: who has read mail from joe@example.com at the office? {answer[:9]}", answer
        ),
        with_turns("leak", few.rows[n]["messages"][1]["content"], answer),
    ]
    return few.keep([*few.rows, *damaged], [*few.splits, *["train"] * len(damaged)])


def test_curation_keeps_the_sound_rows_and_changes_nothing_the_second_time(few):
    spoilt = spoilt_rows(few)
    curated = curate(spoilt)
    assert {fate.row["id"] for fate in curated.fates.values() if fate.dropped} == {"copy", "near", "empty", "leak"}
    assert [fate.row["id"] for fate in curated.fates.values() if not fate.dropped] == ["private"]
    assert [r["id"] for r in curated.kept] == [*(r["id"] for r in few.rows), "private"]
    assert "joe@" not in json.dumps(curated.kept)
    split = dict(zip((r["id"] for r in spoilt.rows), spoilt.splits, strict=True))
    again = curate(spoilt.keep(curated.kept, [split[r["id"]] for r in curated.kept]))
    assert again.fates == {}
    assert again.kept == curated.kept
    assert curate(spoilt) == curated


def test_curation_is_undone_by_its_ledger(few, tmp_path):
    spoilt = spoilt_rows(few)
    curated = curate(spoilt)
    kept, restored = tmp_path / "kept.jsonl", tmp_path / "restored.jsonl"
    ledger = write_curated(curated, kept)
    assert restore(kept, ledger, restored) == len(spoilt.rows)
    assert [json.loads(line) for line in restored.read_text().splitlines()] == [dict(r) for r in spoilt.rows]
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert {line["id"]: line["reasons"][0].partition(":")[0] for line in lines[1:]} == {
        "copy": "duplicates",
        "near": "near duplicates",
        "empty": "empty turns",
        "private": "personal data",
        "leak": "holdout in train",
    }
    kept.write_text(kept.read_text().replace("street", "strait", 1))
    with pytest.raises(DataError, match=r"kept.jsonl: is not what the ledger .* was written for"):
        restore(kept, ledger, restored)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.jsonl", "kept.ledger.jsonl", "restored.jsonl"]


def test_a_ledger_that_lacks_rows_is_refused(few):
    curated = curate(spoilt_rows(few))
    head, *entries = ledger_lines(curated)
    with pytest.raises(DataError, match="names fewer rows than are missing"):
        put_back(curated.kept, entries[1:], head["source_rows"], where="ledger")


def test_nothing_is_left_behind_when_writing_fails(few, tmp_path, monkeypatch):
    curated = curate(spoilt_rows(few))
    monkeypatch.setattr("tunesmith.audit.curate.json.dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_curated(curated, tmp_path / "kept.jsonl")
    assert list(tmp_path.iterdir()) == []


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
