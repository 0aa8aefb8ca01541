"""From many judgements to one verdict a row, with the rows on which annotators disagree (pure)."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tunesmith.data.labels.task import Judgement


@dataclass(frozen=True)
class Verdict:
    """What the annotators of a row agree on; `conflict` says why nothing, if so."""

    row_id: str
    verdict: str
    rewrite: str
    annotators: int
    conflict: str = ""


def latest(judgements: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    """The judgements of each row, the last of each annotator."""
    last: dict[tuple[str, str], Judgement] = {}
    for said in judgements:
        key = said.row_id, said.annotator
        if key not in last or last[key].when <= said.when:
            last[key] = said
    by_row: dict[str, list[Judgement]] = defaultdict(list)
    for said in last.values():
        by_row[said.row_id].append(said)
    return dict(by_row)


def decide(judgements: Sequence[Judgement]) -> Verdict:
    """The verdict of more than half of a row's annotators, or a conflict.

    Decisive judgements are counted alone if there are any. More than half of those who would fix a
    row must agree on the rewrite, blanks at its ends aside.
    """
    voices = [said for said in judgements if said.decisive] or list(judgements)
    row_id, count = voices[0].row_id, len(judgements)
    verdicts = Counter(said.verdict for said in voices)
    verdict, votes = verdicts.most_common(1)[0]
    if 2 * votes <= len(voices):
        told = ", ".join(f"{n} {name}" for name, n in sorted(verdicts.items()))
        return Verdict(row_id, "", "", count, conflict=f"verdicts differ: {told}")
    rewrites = Counter(said.rewrite.strip() for said in voices if said.verdict == "fix")
    rewrite, alike = rewrites.most_common(1)[0] if verdict == "fix" else ("", 0)
    if verdict == "fix" and 2 * alike <= votes:
        return Verdict(row_id, "", "", count, conflict=f"{len(rewrites)} different rewrites")
    return Verdict(row_id, verdict, rewrite, count)


def agreement(by_row: dict[str, list[Judgement]]) -> float | None:
    """Krippendorff's alpha for nominal data over the verdicts, or None where it is undefined.

    1 is perfect agreement, 0 what chance gives. It is taken over the rows that at least two annotators
    judged, and undefined where there is none or their verdicts are all the same. Source: Krippendorff,
    Content Analysis (2019), ch. 12, as NLTK computes it.
    """
    pairable = {row_id: row for row_id, row in by_row.items() if len(row) > 1}
    if len({said.verdict for row in pairable.values() for said in row}) < 2:
        return None
    from nltk.metrics.agreement import AnnotationTask

    triples = [(said.annotator, row_id, said.verdict) for row_id, row in pairable.items() for said in row]
    return float(AnnotationTask(data=triples).alpha())
