"""What came back from the annotators: their judgements, and a count of everything that was none."""

from collections import Counter
from dataclasses import dataclass, field

from tunesmith.data.labels.task import PREFERENCES, VERDICTS, Judgement, is_pair
from tunesmith.errors import DataError
from tunesmith.records import Row


@dataclass
class Returned:
    """Rows by id, judgements, and counts; each annotation adds to exactly one count.

    Counts: `judged`, `cancelled` (Label Studio's skip), `skipped` (Prodigy's ignore), `empty` (sent without a
    verdict), `unfinished` (to be fixed, but not rewritten), and `unannotated` for tasks that nobody opened.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    judgements: list[Judgement] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    batch_size: int = 0

    def task(self, row: Row, batch_size: object, *, where: str) -> None:
        """A task came back; raises `DataError` at `where` if another with its id carried a different row."""
        if self.rows.setdefault(row["id"], row) != row:
            raise DataError(f"{where}: row: another task carries a different row with this id")
        if self.batch_size and is_pair(row) != is_pair(next(iter(self.rows.values()))):
            raise DataError(f"{where}: conversations and preference pairs are mixed in one export")
        self.batch_size = max(self.batch_size, batch_size if isinstance(batch_size, int) else 0)

    def annotation(self, said: Judgement, *, where: str) -> None:
        """An annotator's verdict came back; raises `DataError` at `where` for one that is not known.

        A rewrite that differs from the answer makes `keep` a `fix`; one that equals it is none.
        """
        row = self.rows[said.row_id]
        known = PREFERENCES if is_pair(row) else VERDICTS
        if not said.verdict and not said.rewrite.strip():
            self.counts["empty"] += 1
            return
        if said.verdict and said.verdict not in known:
            raise DataError(f"{where}: verdict: must be one of {', '.join(known)}")
        if not is_pair(row):
            said = _with_rewrite(said, str(row["messages"][-1]["content"]))
        if not said.verdict or (said.verdict == "fix" and not said.rewrite):
            self.counts["unfinished" if said.verdict else "empty"] += 1
            return
        self.counts["judged"] += 1
        self.judgements.append(said)


def _with_rewrite(said: Judgement, answer: str) -> Judgement:
    rewrite = said.rewrite if said.rewrite.strip() and said.rewrite != answer else ""
    verdict = "fix" if rewrite and said.verdict in {"", "keep"} else said.verdict
    return Judgement(said.row_id, said.annotator, verdict, rewrite, said.when, said.decisive)
