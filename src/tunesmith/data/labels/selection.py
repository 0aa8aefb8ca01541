"""Which rows are worth a human's minute."""

import heapq
import json
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from tunesmith.data.digest import sha256
from tunesmith.data.formats import user_text
from tunesmith.data.readers.parsing import decode, parse_object
from tunesmith.data.readers.place import open_bytes
from tunesmith.errors import DataError
from tunesmith.records import Row

NEIGHBOURS = 5
MOST_COMPARED = 30_000  # rows; comparing each with each takes time that grows with the square


def read_scores(path: pathlib.Path) -> dict[str, float]:
    """A JSON object from row ids to finite numbers; raises `DataError` naming the file."""
    with open_bytes(path) as file:
        return checked_scores(parse_object(decode(file.read(), where=path), where=path), where=str(path))


def checked_scores(scores: object, *, where: str) -> dict[str, float]:
    """The scores, if they are an object of finite numbers; raises `DataError` at `where`."""
    if not isinstance(scores, dict):
        raise DataError(f"{where}: must be an object from row ids to numbers")
    numbers = [v for v in scores.values() if isinstance(v, int | float) and not isinstance(v, bool)]
    wrong = len(scores) - sum(map(math.isfinite, numbers))
    if wrong:
        raise DataError(f"{where}: {wrong} of {len(scores)} values are not finite numbers")
    return {key: float(value) for key, value in scores.items()}


def ranked(rows: Iterable[Row], scores: Mapping[str, float], *, count: int, near: float | None = None) -> list[Row]:
    """The `count` rows with the highest scores, or with those nearest to `near`; rows without a score are passed over.

    Equal scores go by the SHA-256 of the id, so that the choice depends neither on order nor on chance.
    """

    def rank(row: Row) -> tuple[float, str]:
        score = scores[row["id"]]
        return score if near is None else -abs(score - near), sha256(row["id"])

    return heapq.nlargest(count, (row for row in rows if row["id"] in scores), key=rank)


def uncertainty(rows: Sequence[Row]) -> dict[str, float]:
    """How doubtful each row's label looks, by row id, without a model.

    Preference pairs: the cosine similarity of chosen and rejected in TF-IDF of words; the more alike
    they are, the less sure is the choice. Conversations: over the five nearest other prompts (cosine
    in TF-IDF of words and word pairs), the mean of similarity(prompts) × (1 - similarity(answers));
    high where the data answers like prompts in unlike ways.
    """
    if len(rows) > MOST_COMPARED:
        raise DataError(f"{len(rows)} rows are too many to compare with each other; rank them by --scores FILE")
    from sklearn.feature_extraction.text import TfidfVectorizer

    if len(rows) < 2:
        return {row["id"]: 0.0 for row in rows}
    pattern = r"(?u)\w+|[^\w\s]"
    answers = TfidfVectorizer(token_pattern=pattern, sublinear_tf=True)
    if "chosen" in rows[0]:
        chosen, rejected = ([_said(row[key]) for row in rows] for key in ("chosen", "rejected"))
        answers.fit(chosen + rejected)
        alike = answers.transform(chosen).multiply(answers.transform(rejected)).sum(axis=1)
        return {row["id"]: float(value) for row, value in zip(rows, alike.ravel().tolist()[0], strict=True)}
    from sklearn.neighbors import NearestNeighbors

    prompts = TfidfVectorizer(token_pattern=pattern, sublinear_tf=True, ngram_range=(1, 2))
    asked = prompts.fit_transform([user_text(row) for row in rows])
    said = answers.fit_transform([row["messages"][-1]["content"] for row in rows])
    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(rows) - 1), metric="cosine", algorithm="brute").fit(asked)
    distances, indices = near.kneighbors()
    doubt = [0.0] * len(rows)
    for k in range(indices.shape[1]):
        alike = said.multiply(said[indices[:, k]]).sum(axis=1).ravel().tolist()[0]
        for n, value in enumerate(alike):
            doubt[n] += (1 - distances[n, k]) * (1 - value) / indices.shape[1]
    return {row["id"]: float(value) for row, value in zip(rows, doubt, strict=True)}


def _said(turns: Iterable[Mapping[str, str]]) -> str:
    return json.dumps([turn["content"] for turn in turns], ensure_ascii=False)
