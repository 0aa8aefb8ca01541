"""What a ledger's entries say: who has been champion, and what was begun but not ended. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from tunesmith.registry.ledger import Entry

INTENT, DONE, UNDONE = "intent", "done", "undone"
HOLDOUT, SCORES, HOOK, COPY = "holdout", "scores", "hook", "copy"
PROMOTE, ROLLBACK = "promote", "rollback"


@dataclass(frozen=True)
class State:
    """Versions that a rollback could return to, oldest first, the last one being champion; and an open intent."""

    champions: tuple[str, ...] = ()
    intent: Entry | None = None

    @property
    def champion(self) -> str | None:
        """The version that the champion's alias should name."""
        return self.champions[-1] if self.champions else None


def follow(entries: Iterable[Entry]) -> State:
    """The state after all entries."""
    state = State()
    for entry in entries:
        if entry.action == INTENT:
            state = State(state.champions, entry)
        elif entry.action in {DONE, UNDONE} and state.intent and entry.body["of"] == state.intent.seq:
            done = entry.action == DONE
            state = State(crowned(state.champions, state.intent) if done else state.champions)
    return state


def crowned(champions: tuple[str, ...], intent: Entry) -> tuple[str, ...]:
    """The champions after a move: a promotion adds one, a rollback removes all after the one it returns to."""
    version = intent.body["version"]
    if intent.body["what"] == PROMOTE:
        return (*champions, version)
    return champions[: len(champions) - champions[::-1].index(version)]


def holdout_uses(entries: Iterable[Entry], items: str) -> list[str]:
    """Ids of the runs whose models were scored on a holdout, in order; `items` is the digest of its items."""
    uses: list[str] = []
    for entry in entries:
        if entry.action == HOLDOUT and entry.body["items"] == items and entry.body["run"] not in uses:
            uses.append(entry.body["run"])
    return uses


def noted_evidence(entries: Iterable[Entry], run_id: str) -> set[str]:
    """SHA-256s of the evidence that a run's model was promoted on, or that it was scored again for."""
    noted = [entry.body for entry in entries if entry.action == SCORES or entry.body.get("what") == PROMOTE]
    return {body["evidence_sha256"] for body in noted if body["run"] == run_id}
