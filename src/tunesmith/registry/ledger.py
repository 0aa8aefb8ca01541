"""An append-only, hash-chained record of what was done to a registered model.

Every entry is one parameter of one MLflow run, named by its number. MLflow parameters are written once:
the database refuses a second value for a name. So of two writers of entry n exactly one succeeds, on
SQLite, PostgreSQL or through a tracking server, and no entry can be changed through MLflow. Each entry
holds the SHA-256 of the one before it, and a tag of the registered model holds the number and SHA-256
of the newest, so that edits of the database and cut ends show.
"""

import datetime
import hashlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow.exceptions import MlflowException

from tunesmith.errors import RegistryError
from tunesmith.tracking import runs, store
from tunesmith.tracking.runs import TAG, principal, process_start

RUN_TAG, HEAD_TAG = f"{TAG}ledger", f"{TAG}ledger_head"
EXPERIMENT = "tunesmith-ledgers"
START = "0" * 64
LONGEST = 5000  # characters of an entry; MLflow keeps 6000


class Taken(Exception):
    """Somebody else has written the entry of this number."""


@dataclass(frozen=True)
class Entry:
    """One entry: its number from 1, what was done, when (UTC), by whom, and its particulars."""

    seq: int
    action: str
    at: str
    by: str
    body: Mapping[str, Any]
    prev: str
    text: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the entry as it is stored."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Ledger:
    """The entries of one registered model, as they were when it was read."""

    name: str
    run_id: str
    entries: tuple[Entry, ...]
    fault: str
    """The first entry that cannot be trusted and why; empty when there is none."""

    @property
    def head(self) -> str:
        """SHA-256 of the newest entry."""
        return self.entries[-1].sha256 if self.entries else START

    def append(self, action: str, body: Mapping[str, Any]) -> "Ledger":
        """Write the next entry and return the longer ledger; raises `Taken` when somebody was faster."""
        entry = self._next(action, body)
        client = store.client()
        try:
            client.log_param(self.run_id, key(entry.seq), entry.text)
        except MlflowException:
            if key(entry.seq) in client.get_run(self.run_id).data.params:
                raise Taken from None
            raise
        client.set_registered_model_tag(self.name, HEAD_TAG, f"{entry.seq}:{entry.sha256}")
        return Ledger(self.name, self.run_id, (*self.entries, entry), self.fault)

    def _next(self, action: str, body: Mapping[str, Any]) -> Entry:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        process = {"host": socket.gethostname(), "pid": os.getpid(), "process_started": process_start(os.getpid())}
        seq = len(self.entries) + 1
        tree = {"action": action, "at": at, "body": {**body, "process": process}, "by": principal(), "prev": self.head}
        text = json.dumps({"seq": seq, **tree}, sort_keys=True, separators=(",", ":"))
        if len(text) > LONGEST:
            raise RegistryError(f"{self.name}: the ledger's entry would be too long; give a shorter reason")
        return parse(text)


def key(seq: int) -> str:
    """The parameter's name of an entry."""
    return f"{seq:06d}"


def parse(text: str) -> Entry:
    """An entry from its text; raises `ValueError` when it is none."""
    try:
        tree = json.loads(text)
        return Entry(text=text, **tree)
    except TypeError:
        raise ValueError("not an entry") from None


def read(name: str) -> Ledger:
    """The ledger of a registered model; raises `RegistryError` when model or ledger are not there."""
    client = store.client()
    try:
        tags = client.get_registered_model(name).tags
    except MlflowException:
        raise RegistryError(f"{name}: is not in the registry of {store.tracking_uri()}") from None
    run_id = tags.get(RUN_TAG) or _adopt(name)
    try:
        run = client.get_run(run_id)
    except MlflowException:
        raise RegistryError(f"{name}: its ledger, run {run_id}, is not in {store.tracking_uri()}") from None
    if run.info.lifecycle_stage != "active":
        raise RegistryError(f"{name}: its ledger was deleted; restore it: mlflow runs restore --run-id {run_id}")
    entries, fault = chain(run.data.params)
    return Ledger(name, run_id, entries, fault or cut(entries, tags.get(HEAD_TAG, "")))


def chain(texts: Mapping[str, str]) -> tuple[tuple[Entry, ...], str]:
    """The entries in order up to the first that cannot be trusted, and what is wrong with that. Pure."""
    entries: list[Entry] = []
    for seq in range(1, len(texts) + 1):
        try:
            entry = parse(texts[key(seq)])
        except KeyError:
            return tuple(entries), f"entry {seq} is missing"
        except ValueError:
            return tuple(entries), f"entry {seq} was changed: it is not an entry any more"
        previous = entries[-1].sha256 if entries else START
        if entry.prev != previous or entry.seq != seq:
            first = seq - 1 if entry.seq == seq and seq > 1 else seq
            return tuple(entries[: first - 1]), f"entry {first} was changed: entry {seq} was written after another one"
        entries.append(entry)
    return tuple(entries), ""


def cut(entries: tuple[Entry, ...], head: str) -> str:
    """What is wrong with the newest entries, by the recorded head; empty when nothing is. Pure."""
    seq, _, sha256 = head.partition(":")
    if not seq.isdigit():
        return "" if len(entries) < 2 else "the registered model's record of the newest entry is missing"
    if int(seq) > len(entries):
        return f"entry {len(entries) + 1} is missing: the ledger was cut off at its end"
    if int(seq) and entries[int(seq) - 1].sha256 != sha256:
        return f"entry {seq} was changed: it is not the one that was recorded as newest"
    return ""


def create(name: str) -> str:
    """An empty ledger's run id; the registered model must be created with it as `RUN_TAG`.

    One that was made for this model, and has neither an entry nor a model, is used: its maker died.
    """
    run = _left(name) or runs.create(EXPERIMENT, "ledger", kind="ledger", tags={"model": name})
    run.finish("FINISHED")
    return run.id


def _left(name: str) -> runs.Run | None:
    client = store.client()
    made = client.search_runs([store.experiment_id(EXPERIMENT)], f"tags.`{TAG}kind` = 'ledger'")
    for run in made:
        mine = run.data.tags.get(f"{TAG}model") == name and not run.data.params
        if mine and not client.search_registered_models(f"tags.`{RUN_TAG}` = '{run.info.run_id}'"):
            return runs.attach(run.info.run_id)
    return None


def _adopt(name: str) -> str:
    """Give a model that was registered by other means a ledger."""
    run_id = create(name)
    client = store.client()
    client.set_registered_model_tag(name, RUN_TAG, run_id)
    return str(client.get_registered_model(name).tags[RUN_TAG])
