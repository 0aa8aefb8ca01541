"""Diversity: how much of the domain the training rows cover, and how evenly."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tunesmith.audit.material import Material
from tunesmith.audit.result import Check, Result
from tunesmith.audit.similarity import question_space
from tunesmith.audit.text import hash_text
from tunesmith.records import Severity

ROWS_PER_CLUSTER, MOST_CLUSTERS = 10, 50


def sample(rows: Sequence[int], count: int, material: Material) -> np.ndarray:
    """At most `count` of `rows`, those whose ids have the lowest hashes: the same in any order of the file."""
    if len(rows) <= count:
        return np.array(rows, dtype=int)
    return np.array(sorted(sorted(rows, key=lambda n: hash_text(material.id(n)))[:count]))


def coverage(material: Material) -> Result:
    """Whether the kinds of question that are held out occur in train too: clusters of questions (k-means)."""
    limits = material.limits.diversity
    held_out = [n for n, split in enumerate(material.splits) if split != "train"]
    if len(material.train) < ROWS_PER_CLUSTER or len(held_out) < ROWS_PER_CLUSTER:
        return Result({}, skipped=f"fewer than {ROWS_PER_CLUSTER} rows in train or outside it")
    from sklearn.cluster import KMeans

    train, other = sample(material.train, limits.sample, material), sample(held_out, limits.sample, material)
    vectors = question_space(material).dense(np.concatenate([train, other]))
    count = max(2, min(MOST_CLUSTERS, len(vectors) // ROWS_PER_CLUSTER))
    clusters = KMeans(count, n_init=3, random_state=0).fit_predict(vectors)
    trained = Counter(clusters[: len(train)].tolist())
    asked = set(clusters[len(train) :].tolist())
    covered = len(asked & set(trained)) / len(asked)
    sizes = tuple(float(size) for _, size in trained.most_common())
    detail = (
        f"{covered:.0%} of the {len(asked)} clusters of held-out questions; at least {limits.min_coverage:.0%} wanted"
    )
    return Result(
        {},
        detail=detail,
        passed=covered >= limits.min_coverage,
        count=len(asked & set(trained)),
        metrics={"audit/coverage": covered},
        series={"Training rows by cluster of questions": sizes},
    )


def vendi(material: Material) -> Result:
    """How many wholly different questions the training rows are worth.

    The Vendi score (Friedman and Dieng, 2023): the exponential of the entropy of the eigenvalues of
    the similarity matrix divided by its size.
    """
    train = sample(material.train, material.limits.diversity.sample, material)
    if len(train) < 2:
        return Result({}, skipped="fewer than two training rows")
    vectors = question_space(material).dense(train)
    values = np.linalg.eigvalsh(vectors.T @ vectors / len(train))  # its eigenvalues but for zeros
    values = values[values > 1e-12]
    values = values / values.sum()
    score = float(np.exp(-(values * np.log(values)).sum()))
    detail = f"wholly different questions are what {len(train)} training rows are worth (Vendi score {score:.1f})"
    return Result({}, detail=detail, passed=True, count=round(score), metrics={"audit/vendi_score": score})


def balance(material: Material) -> Result:
    """How evenly the training rows spread over the values of `data.stratify_by`."""
    values = [str(material.rows[n].get(material.stratify_by)) for n in material.train]
    counts = Counter(values)
    if len(counts) < 2:
        return Result({}, skipped=f"the training rows have fewer than two values of {material.stratify_by}")
    evenness = -sum(c / len(values) * math.log(c / len(values)) for c in counts.values()) / math.log(len(counts))
    limit = material.limits.diversity.min_balance
    rarest, fewest = counts.most_common()[-1]
    detail = (
        f"values of {material.stratify_by}, evenness {evenness:.2f}; at least {limit:.2f} wanted; "
        f"the rarest, {rarest}, has {fewest} rows"
    )
    return Result(
        {},
        detail=detail,
        passed=evenness >= limit,
        count=len(counts),
        metrics={"audit/balance": evenness},
        series={f"Training rows by {material.stratify_by}": tuple(float(c) for _, c in counts.most_common())},
    )


CHECKS = (
    Check("coverage", "diversity", coverage, severity=Severity.WARN),
    Check("effective size", "diversity", vendi, severity=Severity.NOTE),
    Check("balance", "diversity", balance, severity=Severity.WARN),
)
