"""Duplicates and contradictions among the rows, across splits."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

import numpy as np
from datasketch import MinHash

from tunesmith.audit.material import Material, turns
from tunesmith.audit.result import Action, Check, Result, caught
from tunesmith.audit.text import hash_text, jaccard, normalise, shingles, statements
from tunesmith.data.digest import canonical

PERMUTATIONS, BANDS = 80, 16
"""Rows whose signatures agree in one of 16 bands of 5 are compared. Of pairs with a Jaccard similarity of
0.6 that finds 72%, of 0.7 95%, of 0.8 99.8% (1 - (1 - s^5)^16; Leskovec et al., Mining of Massive Datasets, 3.4)."""
LARGEST_BUCKET = 50


def exact_duplicates(material: Material) -> Result:
    """Rows whose turns repeat those of another row to the letter."""
    found = {}
    for group in exact_groups(material):
        kept, *repeats = by_precedence(group, material)
        found.update({row: f"repeats {material.id(kept)}" for row in repeats})
    return caught(found, len(material.rows), "all rows")


def exact_groups(material: Material) -> Iterator[list[int]]:
    """Positions of rows that are equal, two or more at a time."""
    seen: dict[int, list[int]] = defaultdict(list)
    for n, row in enumerate(material.rows):
        seen[hash_text(canonical([*turns(row), *row.get("rejected", ())]))].append(n)
    return (group for group in seen.values() if len(group) > 1)


def by_precedence(rows: Iterable[int], material: Material) -> list[int]:
    """Positions of equal rows, that which stays first: held-out before training rows, then in the order of the file."""
    return sorted(rows, key=lambda n: (material.splits[n] == "train", n))


def near_duplicates(material: Material) -> Result:
    """Rows that state the same as another row in nearly the same words.

    MinHash (Broder, 1997) proposes pairs, the Jaccard similarity of their shingles decides. Exact
    repeats are left to the check for these.
    """
    leaders = leader_of(similar_pairs(material), material)
    found = {n: f"nearly repeats {material.id(leader)}" for n, leader in leaders.items()}
    return caught(found, len(material.rows), "all rows")


def similar_pairs(material: Material) -> list[tuple[int, int]]:
    """Pairs of near duplicates: alike beyond the threshold, and stating the same numbers."""
    repeated = {n for group in exact_groups(material) for n in by_precedence(group, material)[1:]}
    kept = [n for n in range(len(material.rows)) if n not in repeated]
    sets = {n: shingles(whole_text(n, material)) for n in kept}
    threshold = material.limits.overlap.near_duplicate
    return [
        (a, b)
        for a, b in candidates(sets)
        if same_statements(a, b, material) and jaccard(sets[a], sets[b]) >= threshold
    ]


def whole_text(row: int, material: Material) -> str:
    """What is said in a row, normalised; in a preference row the rejected reply too."""
    rejected = [str(turn.get("content")) for turn in material.rows[row].get("rejected", ())]
    return " | ".join([material.questions[row], *map(normalise, (material.answers[row], *rejected))])


def same_statements(a: int, b: int, material: Material) -> bool:
    """Whether two rows state the same numbers, codes and label; a row with another number says something else."""
    return material.label[a] == material.label[b] and all(
        statements(texts[a]) == statements(texts[b]) for texts in (material.answers, material.questions)
    )


def candidates(sets: Mapping[int, np.ndarray]) -> Iterator[tuple[int, int]]:
    """Pairs of keys whose sets are probably alike, each pair once.

    The signatures are datasketch's. The bands are joined by sorting: datasketch's own index keeps a
    Python set for each bucket, which at a million rows is ten times the memory.
    """
    keys = np.array(sorted(sets))
    if len(keys) < 2:
        return
    bands = band_hashes([sets[key] for key in keys])
    seen: set[tuple[int, int]] = set()
    for band in bands:
        order = np.argsort(band, kind="stable")
        edges = np.flatnonzero(np.diff(band[order])) + 1
        for bucket in np.split(order, edges):
            if len(bucket) > 1:
                for pair in bucket_pairs(keys[bucket].tolist()):
                    if pair not in seen:
                        seen.add(pair)
                        yield pair


def bucket_pairs(bucket: list[int]) -> Iterator[tuple[int, int]]:
    """All pairs of a small bucket; of a large one each member with the first and with the one before it."""
    if len(bucket) <= LARGEST_BUCKET:
        yield from ((a, b) for n, a in enumerate(bucket) for b in bucket[n + 1 :])
        return
    for before, key in pairwise(bucket):
        yield before, key
        if before != bucket[0]:
            yield bucket[0], key


def band_hashes(sets: list[np.ndarray]) -> np.ndarray:
    """A 64-bit number for each band of each set's MinHash signature, of shape [bands, sets]."""
    empty = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int, scheme="affine64")
    hashes = np.empty((BANDS, len(sets)), dtype=np.uint64)
    weights = np.random.default_rng(1).integers(1, 2**63, size=PERMUTATIONS // BANDS, dtype=np.uint64) | np.uint64(1)
    for n, members in enumerate(sets):
        signature = empty.copy()
        signature.update_batch(members)
        hashes[:, n] = (signature.hashvalues.reshape(BANDS, -1) * weights).sum(axis=1)
    return hashes


def leader_of(pairs: Iterable[tuple[int, int]], material: Material) -> dict[int, int]:
    """For each row that is like one that stays, that one.

    Rows are gone through by precedence, and each takes with it those directly like it; likeness is
    not handed on, so that nobody goes for being like a row that went.
    """
    neighbours: dict[int, set[int]] = defaultdict(set)
    for a, b in pairs:
        neighbours[a].add(b)
        neighbours[b].add(a)
    leaders: dict[int, int] = {}
    for row in by_precedence(neighbours, material):
        if row not in leaders:
            leaders.update({other: row for other in neighbours[row] if other not in leaders})
    return leaders


def contradictions(material: Material) -> Result:
    """Rows that ask the same as another row and are answered with other numbers, another label or in other words.

    Which of them is right, this check cannot say; those of `accuracy` try. Case, punctuation and spacing
    aside the question must be the same: one other word can ask for something else.
    """
    asking: dict[str, list[int]] = defaultdict(list)
    for n, question in enumerate(material.questions):
        if question and "rejected" not in material.rows[n]:
            asking[question].append(n)
    found: dict[int, str] = {}
    for rows in asking.values():
        for n in rows[:LARGEST_BUCKET]:
            other = next((m for m in rows[:LARGEST_BUCKET] if m != n and answers_differ(n, m, material)), None)
            if other is not None:
                found[n] = f"is answered differently in {material.id(other)}"
    return caught(found, len(material.rows), "all rows")


def answers_differ(a: int, b: int, material: Material) -> bool:
    """Whether the same question gets another number, another label, or an answer with hardly a word in common."""
    if material.label[a] != material.label[b]:
        return True
    mine, theirs = statements(material.answers[a]), statements(material.answers[b])
    if mine and theirs:
        return not mine & theirs or (mine != theirs and not (mine < theirs or theirs < mine))
    first, second = (set(normalise(material.answers[n]).split()) for n in (a, b))
    return len(first & second) < 0.2 * min(len(first), len(second))


CHECKS = (
    Check("duplicates", "duplicates", exact_duplicates, limit="max_duplicate_rate", action=Action.DROP),
    Check("near duplicates", "duplicates", near_duplicates, limit="max_near_duplicate_rate", action=Action.DROP),
    Check("contradictions", "duplicates", contradictions, limit="max_contradiction_rate"),
)
