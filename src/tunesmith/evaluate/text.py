"""How close a reply is to its references: pure functions of two texts."""

import collections
import functools
import re
import string
from collections.abc import Sequence
from typing import Any

import sacrebleu

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad_words(text: str) -> list[str]:
    """A text's words without case, ASCII punctuation and English articles (SQuAD; Rajpurkar et al., 2016)."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def squad_exact(references: Sequence[str], reply: str) -> float:
    """1 if the reply has the words of one of the references, in order; else 0."""
    return float(any(squad_words(reference) == squad_words(reply) for reference in references))


def token_f1(references: Sequence[str], reply: str) -> float:
    """F1 of the reply's words against the reference that it is closest to (SQuAD), 0 to 1."""
    return max(_f1(squad_words(reference), squad_words(reply)) for reference in references)


def _f1(wanted: list[str], given: list[str]) -> float:
    if not wanted or not given:
        return float(wanted == given)
    shared = (collections.Counter(wanted) & collections.Counter(given)).total()
    return 2 * shared / (len(wanted) + len(given))


def rouge(kinds: tuple[str, ...], reference: str, reply: str) -> dict[str, float]:
    """ROUGE F1 with stemming (Lin, 2004) by kind, as `rouge1` or `rougeL`; 0 to 1."""
    return {kind: score.fmeasure for kind, score in _scorer(kinds).score(reference, reply).items()}


@functools.cache
def _scorer(kinds: tuple[str, ...]) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk, which takes longer than all else here

    return RougeScorer(list(kinds), use_stemmer=True)


def sentence_bleu(reference: str, reply: str) -> float:
    """BLEU of one reply (Papineni et al., 2002), smoothed, up to the longest n-grams it has; 0 to 100."""
    return float(sacrebleu.sentence_bleu(reply, [reference]).score)


def sentence_chrf(reference: str, reply: str) -> float:
    """ChrF of one reply (Popović, 2015), character 6-grams, recall counted twice; 0 to 100."""
    return float(sacrebleu.sentence_chrf(reply, [reference]).score)
