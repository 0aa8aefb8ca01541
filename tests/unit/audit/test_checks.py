"""The data desk: what the checks of single rows, copies, leaks and private values catch, and what they leave alone."""

import re

import pytest
from tests.audit_rows import caught, material, row, with_row

from tunesmith.audit import checks as table
from tunesmith.audit import (
    contamination,
    duplicates,
    formatting,
    privacy,
    text,
)
from tunesmith.audit.material import make_reference
from tunesmith.records import Severity


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
