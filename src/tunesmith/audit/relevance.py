"""Relevance: how near each row is to the questions that show what the domain is."""

import numpy as np

from tunesmith.audit.material import Material
from tunesmith.audit.result import Action, Check, Result, caught
from tunesmith.audit.similarity import CHUNK, Space, make_space
from tunesmith.audit.text import normalise
from tunesmith.records import Severity


def off_topic(material: Material) -> Result:
    """Rows whose question and answer are unlike those of every row of the sanity set."""
    sanity = next((reference for reference in material.references if reference.name == material.sanity), None)
    if sanity is None:
        return Result({}, skipped="data.sanity names no file that shows what the domain is")
    shown = [
        f"{q} {normalise(material.without_label(a))}" for q, a in zip(sanity.questions, sanity.answers, strict=True)
    ]
    texts = [f"{q} {normalise(a)}" for q, a in zip(material.questions, material.answers, strict=True)]
    space = make_space([*texts, *shown], material.limits.meaning)
    nearest = nearest_similarity(space, len(texts))
    limits = material.limits.meaning
    threshold = limits.min_relevance if space.kind == "minilm" else limits.min_relevance_tfidf
    found = {
        int(n): f"similarity {nearest[n]:.2f} to the sanity set ({space.kind})"
        for n in np.flatnonzero(nearest < threshold)
    }
    series = {f"Similarity to the sanity set ({space.kind})": tuple(nearest.tolist())}
    metrics = {"audit/mean_relevance": float(nearest.mean())}
    return caught(found, len(texts), "rows", series=series, metrics=metrics)


def nearest_similarity(space: Space, rows: int) -> np.ndarray:
    """For each of the first `rows` vectors, its similarity to the nearest of the others, of shape [rows]."""
    parts = [
        space.similarity(slice(start, min(rows, start + CHUNK)), slice(rows, None)).max(axis=1)
        for start in range(0, rows, CHUNK)
    ]
    return np.concatenate(parts)


CHECKS = (
    Check(
        "off topic",
        "relevance",
        off_topic,
        severity=Severity.WARN,
        limit="meaning.max_off_topic_rate",
        action=Action.DROP,
    ),
)
