"""Accuracy: answers that the other rows do not bear out. No model of the domain is needed, only neighbours.

A base model knows nothing of an invented utility, or of anybody's own policies; what it finds unlikely
is not what is wrong. The other rows do know: most of them are right.
"""

import re
import warnings
from collections.abc import Sequence

import numpy as np

from tunesmith.audit.material import Material
from tunesmith.audit.result import Action, Check, Result, caught
from tunesmith.audit.similarity import CHUNK, Space, make_space, question_space
from tunesmith.audit.text import normalise, statements
from tunesmith.records import Severity

FEWEST_ROWS = 200
FOLDS = 5
ROWS_PER_CLUSTER, MOST_CLUSTERS = 20, 200
PASSAGE_WORDS, PASSAGES = 8, 2
NUMBERS = re.compile(r"\S*\d\S*")


def skip_reason(material: Material) -> str:
    """Why the rows cannot be compared with each other; empty if they can."""
    count, most = len(material.rows), material.limits.meaning.embed_rows
    if count < FEWEST_ROWS:
        return f"{count} rows are too few to bear each other out; {FEWEST_ROWS} are needed"
    if count > most:
        return f"more than data.audit.meaning.embed_rows ({most}) rows"
    return ""


def unsupported_numbers(material: Material) -> Result:
    """Rows whose answer states a number that neither similar answers nor the nearest knowledge state.

    Similarity is that of the answers with their numbers blanked out, so that a wrong number does not
    lead away from the rows that state the right one.
    """
    reason = skip_reason(material)
    if reason:
        return Result({}, skipped=reason)
    stated = [statements(answer) for answer in material.answers]
    asked = [statements(question) for question in material.questions]
    passages = [line for text in material.knowledge for line in text.splitlines() if len(line.split()) >= PASSAGE_WORDS]
    known = [statements(line) for line in passages]
    space = make_space([blanked(text) for text in (*material.answers, *passages)], material.limits.meaning)
    found = {}
    for row, (neighbours, nearest) in enumerate(nearest_answers(space, material, len(passages))):
        for value in stated[row] - asked[row]:
            support = sum(value in stated[n] for n in neighbours)
            published = any(value in known[n] for n in nearest)
            if support < material.limits.meaning.min_support and not published:
                found[row] = f"states a number that {support} of {len(neighbours)} similar answers state"
    return caught(found, len(material.rows), "rows")


def blanked(text: str) -> str:
    """A normalised text without its numbers."""
    return NUMBERS.sub("#", normalise(text))


def nearest_answers(space: Space, material: Material, passages: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each row the rows with the most similar answers, and the knowledge passages nearest to its answer."""
    rows, count = len(material.rows), material.limits.meaning.neighbours
    found = []
    for start in range(0, rows, CHUNK):
        end = min(rows, start + CHUNK)
        similarity = space.similarity(slice(start, end), slice(None))
        similarity[np.arange(end - start), np.arange(start, end)] = -1.0
        neighbours = np.argsort(-similarity[:, :rows], axis=1, kind="stable")[:, :count]
        nearest = np.argsort(-similarity[:, rows : rows + passages], axis=1, kind="stable")[:, :PASSAGES]
        found += list(zip(neighbours, nearest, strict=True))
    return found


def unfitting_answers(material: Material) -> Result:
    """Rows whose answer belongs to another question.

    The answers are clustered; a classifier that has not seen a row predicts the cluster from its
    question. An answer whose cluster is improbable beside the most probable one does not fit
    (confident learning, Northcutt et al., 2021).
    """
    reason = skip_reason(material)
    if reason:
        return Result({}, skipped=reason)
    from sklearn.cluster import KMeans

    answers = make_space([normalise(answer) for answer in material.answers], material.limits.meaning)
    count = min(MOST_CLUSTERS, len(material.rows) // ROWS_PER_CLUSTER)
    dense = answers.dense(np.arange(len(material.rows)))
    clusters = KMeans(count, n_init=3, random_state=0).fit_predict(dense)
    questions = question_space(material).vectors[: len(material.rows)]
    probable = out_of_fold(questions, clusters)
    odds = probable[np.arange(len(clusters)), clusters] / probable.max(axis=1)
    wrong = np.flatnonzero(odds < material.limits.meaning.min_odds)
    found = {
        int(n): f"other answers are {1 / max(odds[n], 1e-6):.0f} times as probable for its question" for n in wrong
    }
    return caught(found, len(material.rows), "rows")


def unfitting_labels(material: Material) -> Result:
    """Rows whose label is improbable for their answer, judged by a classifier that has not seen them."""
    reason = skip_reason(material)
    labels, numbers = np.unique(np.array(material.label), return_inverse=True)
    if not material.labels:
        reason = "no task of measure `extract` says what the label of an answer is"
    elif len(labels) < 2:
        reason = "there is only one label"
    if reason:
        return Result({}, skipped=reason)
    space = make_space([normalise(answer) for answer in material.answers], material.limits.meaning)
    probable = out_of_fold(space.vectors, numbers)
    own = probable[np.arange(len(numbers)), numbers]
    wrong = np.flatnonzero(own < material.limits.meaning.min_label)
    return caught({int(n): f"its label has probability {own[n]:.2f}" for n in wrong}, len(numbers), "rows")


def out_of_fold(vectors: np.ndarray, classes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Probabilities [rows, classes] of a logistic regression that was fitted on the other folds."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold, cross_val_predict

    folds = KFold(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="Number of classes in training fold", category=RuntimeWarning)
        classifier = LogisticRegression(C=10, max_iter=100)
        return np.asarray(cross_val_predict(classifier, vectors, classes, cv=folds, method="predict_proba"))


CHECKS = tuple(
    Check(
        name,
        "accuracy",
        find,
        severity=Severity.WARN,
        limit="meaning.max_wrong_rate",
        action=Action.DROP,
        guess=True,
    )
    for name, find in (
        ("unsupported numbers", unsupported_numbers),
        ("unfitting labels", unfitting_labels),
        ("unfitting answers", unfitting_answers),
    )
)
