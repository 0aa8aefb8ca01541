"""Contamination: training rows that give away what the model is scored on."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from tunesmith.audit.material import HELD_OUT, Material, Reference, contents
from tunesmith.audit.result import Action, Check, Result
from tunesmith.audit.text import Vocabulary, words
from tunesmith.records import Severity

SHORTEST = 5
"""Fewest words of a question that a training row can give away."""
ROWS_PER_GRAM = 50
"""A run of words names at most so many training rows: more of them share a turn of phrase, or one leak."""


def checks(material: Material) -> list[Check]:
    """One check for every held-out split and every reference, and one for answers."""
    made = [
        Check(f"{name} in train", "contamination", partial(split_in_train, name=name), limit="max_holdout_overlap",
              action=Action.DROP)
        for name in HELD_OUT
    ]  # fmt: skip
    made += [
        Check(f"{reference.name} in train", "contamination", partial(reference_in_train, reference=reference),
              limit="max_task_overlap", action=Action.DROP)
        for reference in material.references
    ]  # fmt: skip
    return [*made, Check("answers in train", "contamination", answers_in_train, severity=Severity.NOTE)]


def split_in_train(material: Material, *, name: str) -> Result:
    """Rows of a held-out split whose user turns occur in a training row."""
    held_out = [n for n, split in enumerate(material.splits) if split == name]
    questions = [material.questions[n] for n in held_out]
    result = questions_in_train(questions, [material.id(n) for n in held_out], material, noun=f"{name} rows")
    return Result(**{**vars(result), "metrics": {f"audit/{name}_overlap": result.share}})


def reference_in_train(material: Material, *, reference: Reference) -> Result:
    """Items of a reference whose question occurs in a training row."""
    return questions_in_train(reference.questions, reference.ids, material, noun="items")


def questions_in_train(questions: Sequence[str], ids: Sequence[str], material: Material, *, noun: str) -> Result:
    """Which training rows contain which questions: word for word, or a large enough share of their n-grams.

    N-grams of the system prompt and of the knowledge texts do not count.
    """
    rows: dict[int, str] = {}
    seen: set[int] = set()
    for question, row, share in [*equal_questions(questions, material), *shared_ngrams(questions, material)]:
        seen.add(question)
        how = "asks the same as" if share is None else f"holds {share:.0%} of"
        rows.setdefault(row, f"{how} {ids[question]}")
    share = len(seen) / max(1, len(questions))
    detail = f"{len(seen)} of {len(questions)} {noun} ({share:.2%})"
    return Result(rows, share=share, detail=detail, count=len(seen))


def equal_questions(questions: Sequence[str], material: Material) -> list[tuple[int, int, None]]:
    """(question, training row) where both are the same words."""
    asked: dict[str, list[int]] = defaultdict(list)
    for row in material.train:
        asked[material.questions[row]].append(row)
    return [(n, row, None) for n, question in enumerate(questions) if question for row in asked.get(question, [])]


def shared_ngrams(questions: Sequence[str], material: Material) -> list[tuple[int, int, float]]:
    """(question, training row, share of the question's n-grams in the row) beyond the threshold.

    A question of fewer words than the n-grams, but not of fewer than `SHORTEST`, counts as one n-gram.
    """
    limits = material.limits.overlap
    by_length: dict[int, list[tuple[int, list[str]]]] = defaultdict(list)
    for n, question in enumerate(questions):
        tokens = question.split()
        if len(tokens) >= SHORTEST:
            by_length[min(len(tokens), limits.user_ngram)].append((n, tokens))
    found = []
    for length, asked in sorted(by_length.items()):
        index, common = train_index(material, length), excluded(material, length)
        for n, tokens in asked:
            grams = np.setdiff1d(material.vocabulary.ngrams(tokens, length), common, assume_unique=True)
            for row, count in index.hits(grams).items():
                if count / len(grams) >= limits.user_share:
                    found.append((n, row, count / len(grams)))
    return found


def train_index(material: Material, length: int) -> "NgramIndex":
    """The n-grams of what the user says in the training rows."""

    def make() -> NgramIndex:
        grams = {row: material.vocabulary.ngrams(material.questions[row].split(), length) for row in material.train}
        return NgramIndex(grams)

    return material.once(("train n-grams", length), make)  # type: ignore[no-any-return]


class NgramIndex:
    """Which rows hold which n-grams, kept in two sorted arrays."""

    def __init__(self, grams: Mapping[int, np.ndarray]) -> None:
        rows = np.repeat(np.array(list(grams), dtype=np.int64), [len(values) for values in grams.values()])
        values = np.concatenate([np.empty(0, dtype=np.uint64), *grams.values()])
        order = np.argsort(values, kind="stable")
        self.values, self.rows = values[order], rows[order]

    def hits(self, grams: np.ndarray) -> dict[int, int]:
        """How many of `grams` each row holds."""
        starts, ends = np.searchsorted(self.values, grams, "left"), np.searchsorted(self.values, grams, "right")
        spans = [self.rows[a : min(b, a + ROWS_PER_GRAM)] for a, b in zip(starts, ends, strict=True) if a < b]
        if not spans:
            return {}
        rows, counts = np.unique(np.concatenate(spans), return_counts=True)
        return dict(zip(rows.tolist(), counts.tolist(), strict=True))


def excluded(material: Material, length: int) -> np.ndarray:
    """The n-grams of the system prompts and of the knowledge texts, sorted."""
    return material.once(("excluded n-grams", length), lambda: quoted_ngrams(material, length))  # type: ignore[no-any-return]


def quoted_ngrams(material: Material, length: int) -> np.ndarray:
    """Compute what `excluded` gives."""
    texts = [*material.knowledge, *{contents(row, "system") for row in material.rows}]
    grams = [material.vocabulary.ngrams(words(text), length) for text in texts]
    return np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *grams]))


def answers_in_train(material: Material) -> Result:
    """Training rows whose answer shares a run of words with a held-out answer; only reported.

    Two answers by one policy may rightly share a sentence.
    """
    length, vocabulary = material.limits.overlap.answer_ngram, material.vocabulary
    held_out = [material.answers[n] for n, split in enumerate(material.splits) if split != "train"]
    held_out += [material.without_label(answer) for reference in material.references for answer in reference.answers]
    known = [answer_ngrams(answer, length, vocabulary) for answer in held_out]
    forbidden = np.setdiff1d(np.concatenate([np.empty(0, dtype=np.uint64), *known]), excluded(material, length))
    rows = {}
    for row in material.train:
        if intersects(answer_ngrams(material.answers[row], length, vocabulary), forbidden):
            rows[row] = f"shares {length} words in a row with a held-out answer"
    share = len(rows) / max(1, len(material.train))
    return Result(rows, detail=f"{share:.2%} of training rows", passed=not rows)


def answer_ngrams(answer: str, length: int, vocabulary: Vocabulary) -> np.ndarray:
    """The n-grams of an answer."""
    return vocabulary.ngrams(words(answer), length)


def intersects(few: np.ndarray, many: np.ndarray) -> bool:
    """Whether two sorted arrays have a number in common; the time hardly grows with `many`."""
    if not len(few) or not len(many):
        return False
    places = np.minimum(np.searchsorted(many, few), len(many) - 1)
    return bool((many[places] == few).any())
