"""What checks compare: words, shingles, n-grams and statements of a text. Pure."""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

SHINGLE = 5
WORD = re.compile(r"[^\W_]+(?:['.,:-][^\W_]+)*")
STATEMENT = re.compile(r"[A-Z]-\d+|\d+(?:[.,:-]\d+)*")
PRIME = np.uint64(1_099_511_628_211)


def normalise(text: str) -> str:
    """Words in lower case, one space between them; punctuation, spacing and width of letters do not count."""
    return " ".join(words(text))


def words(text: str) -> list[str]:
    """The words and numbers of a text, in lower case."""
    return WORD.findall(unicodedata.normalize("NFKC", text).replace("’", "'").casefold())


def shingles(text: str) -> np.ndarray:
    """The distinct runs of five bytes of a normalised text, each as one 64-bit number, sorted."""
    data = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint64)
    count = len(data) - SHINGLE + 1
    if count < 1:
        return np.array([hash_text(text)], dtype=np.uint64)
    runs = np.zeros(count, dtype=np.uint64)
    for place in range(SHINGLE):
        runs = (runs << np.uint64(8)) | data[place : place + count]
    return np.unique(runs)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Share of two sorted sets of shingles that both have."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / max(1, len(a) + len(b) - shared)


def hash_text(text: str) -> int:
    """The first 64 bits of a text's SHA-256: the same on every machine, unlike `hash`."""
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class Vocabulary:
    """Gives each word a random 64-bit number that depends on nothing but the word."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def number(self, word: str) -> int:
        """The number of a word."""
        value = self.known.get(word)
        if value is None:
            value = self.known[word] = hash_text(word)
        return value

    def ngrams(self, tokens: Sequence[str], length: int) -> np.ndarray:
        """The distinct n-grams of a text as 64-bit numbers, sorted; none if it has fewer words than `length`."""
        count = len(tokens) - length + 1
        if count < 1:
            return np.empty(0, dtype=np.uint64)
        numbers = np.array([self.number(token) for token in tokens], dtype=np.uint64)
        grams = np.zeros(count, dtype=np.uint64)
        for place in range(length):
            grams = grams * PRIME + numbers[place : place + count]
        return np.unique(grams)


def statements(text: str) -> frozenset[str]:
    """The numbers and codes that a text states: amounts, dates, deadlines, telephone numbers, forms."""
    return frozenset(match.strip(".,:-").replace(",", "") for match in STATEMENT.findall(text))
