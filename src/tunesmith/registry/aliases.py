"""Moving the champion's alias so that alias and ledger always agree.

A move is three writes: an intent in the ledger, the alias, and the intent's end in the ledger. The
intent takes the ledger's next number, which only one of several writers gets, so it is the lock. A
process that dies in between leaves an open intent; whoever comes next ends it by one rule: if the alias
has moved, the move is done, otherwise it is undone.
"""

import datetime
import socket
from collections.abc import Mapping
from typing import Any

from tunesmith.errors import RegistryError
from tunesmith.registry import ledger as ledgers
from tunesmith.registry.ledger import Entry, Ledger, Taken
from tunesmith.registry.reigns import DONE, INTENT, UNDONE, State, follow
from tunesmith.registry.versions import by_alias, set_alias
from tunesmith.tracking.runs import process_start

CHAMPION, CANDIDATE = "champion", "candidate"
LEASE_S = 120  # how long another machine's open intent is left alone
ATTEMPTS = 20


def champion_of(name: str) -> str | None:
    """The version that the champion's alias names now."""
    version = by_alias(name, CHAMPION)
    return None if version is None else version.number


def settled(name: str) -> tuple[Ledger, State]:
    """A ledger without open intent: one whose process has died is ended first.

    Raises `RegistryError` when the ledger is damaged or a move is under way.
    """
    for _ in range(ATTEMPTS):
        ledger = ledgers.read(name)
        if ledger.fault:
            raise RegistryError(f"{name}: the ledger cannot be trusted: {ledger.fault}; see history --verify")
        state = follow(ledger.entries)
        if state.intent is None:
            return ledger, state
        if alive(state.intent):
            process = state.intent.body["process"]
            raise RegistryError(
                f"{name}: a {state.intent.body['what']} of version {state.intent.body['version']} by "
                f"{state.intent.by} is under way (process {process['pid']} on {process['host']}); try again after it"
            )
        end(ledger, state.intent, by_other=True)
    raise RegistryError(f"{name}: the ledger is too busy; try again")


def alive(intent: Entry) -> bool:
    """Whether the process that wrote an intent may still act on it."""
    process = intent.body["process"]
    if process["host"] == socket.gethostname():
        return bool(process_start(process["pid"]) == process["process_started"] != "")
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(intent.at)
    return bool(age.total_seconds() < LEASE_S)


def end(ledger: Ledger, intent: Entry, *, by_other: bool = False) -> bool:
    """End an intent by where the alias stands, and say whether it was done; somebody else may have ended it."""
    while True:
        done = champion_of(ledger.name) == str(intent.body["version"])
        note = {"note": "settled after its process had died"} if by_other else {}
        try:
            ledger.append(DONE if done else UNDONE, {"of": intent.seq, **note})
        except Taken:
            ledger = ledgers.read(ledger.name)
            ends = [e for e in ledger.entries if e.action in {DONE, UNDONE} and e.body["of"] == intent.seq]
            if ends:
                return str(ends[0].action) == DONE
        else:
            return done


def compared(name: str) -> tuple[Ledger, State, str]:
    """A settled ledger, and how the alias differs from it, which is empty when they agree.

    They differ for a moment while another process moves the alias; then the ledger has grown meanwhile.
    """
    for _ in range(ATTEMPTS):
        ledger, state = settled(name)
        difference = drift(name, state)
        if not difference or ledgers.read(name).head == ledger.head:
            return ledger, state, difference
    raise RegistryError(f"{name}: the ledger is too busy; try again")


def drift(name: str, state: State) -> str:
    """How the alias differs from a ledger's state, that is, what was done past it; empty when they agree."""
    alias = champion_of(name)
    if alias == state.champion:
        return ""
    now = f"names version {alias}" if alias else "is gone (deleted, or its version was)"
    ought = f"version {state.champion}" if state.champion else "none"
    return f"the alias champion {now}, the ledger says {ought}; it was edited past Tunesmith"


def move(name: str, version: str, *, what: str, expected: str | None, body: Mapping[str, Any]) -> Entry:
    """Let the champion's alias name a version, if the champion still is the `expected` one; returns the intent.

    A rollback may start from an alias that was edited by hand, which a promotion refuses.
    """
    for _ in range(ATTEMPTS):
        ledger, state, difference = compared(name)
        if difference and what != "rollback":
            raise RegistryError(f"{name}: {difference}; `tunesmith rollback` restores what the ledger says")
        if state.champion != expected:
            raise RegistryError(
                f"{name}: the champion is version {state.champion} by now, not {expected} as expected; judge again"
            )
        particulars = {"what": what, "version": version, "was": champion_of(name), **body}
        particulars |= {"drift": difference} if difference else {}
        try:
            ledger = ledger.append(INTENT, particulars)
        except Taken:
            continue
        return _carry_out(ledger, ledger.entries[-1])
    raise RegistryError(f"{name}: the ledger is too busy; try again")


def _carry_out(ledger: Ledger, intent: Entry) -> Entry:
    try:
        set_alias(ledger.name, CHAMPION, intent.body["version"])
    finally:
        done = end(ledger, intent)
    if not done:
        _restore(ledger.name)
        raise RegistryError(f"{ledger.name}: another process took this one for dead and undid its move; try again")
    return intent


def _restore(name: str) -> None:
    """Take back an alias that was set after its intent had been undone."""
    champion = follow(ledgers.read(name).entries).champion
    if champion is not None and champion_of(name) != champion:
        set_alias(name, CHAMPION, champion)


def note(name: str, action: str, body: Mapping[str, Any]) -> None:
    """Write an entry that moves nothing."""
    for _ in range(ATTEMPTS):
        ledger = ledgers.read(name)
        try:
            ledger.append(action, body)
        except Taken:
            continue
        return
    raise RegistryError(f"{name}: the ledger is too busy; try again")
