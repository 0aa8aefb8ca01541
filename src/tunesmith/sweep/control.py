"""Requests to a running sweep, from another terminal, through the study's own store.

A request is an attribute of the study of its own, so that two writers never overwrite each other; the
coordinator notes which it has heeded.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import optuna

from tunesmith.errors import StudyError
from tunesmith.sweep.lease import KEY, is_live

PREFIX, HEEDED = "request-", "heeded"
POLL_SECONDS = 0.5

Kind = Literal["stop", "pause", "resume", "add"]
Request = dict[str, Any]


def ask(study: optuna.Study, kind: Kind, **details: Any) -> None:
    """Leave a request; raises `StudyError` when no process runs the sweep."""
    holder = study.user_attrs.get(KEY)
    if not holder or not is_live(holder):
        raise StudyError(f"{study.study_name}: no process runs this sweep; go on with it by --resume")
    key = f"{PREFIX}{time.time_ns():020d}-{secrets.token_hex(3)}"
    study.set_user_attr(key, {"kind": kind, **details})


def pending(study: optuna.Study) -> dict[str, Request]:
    """Requests that were not heeded yet, oldest first."""
    attributes = study.user_attrs
    heeded = set(attributes.get(HEEDED, []))
    found = {key: value for key, value in attributes.items() if key.startswith(PREFIX) and key not in heeded}
    return dict(sorted(found.items()))


class Desk:
    """Looks for requests while a sweep runs, and hands each to `heed` once, in its own thread.

    One that cannot be heeded is told to `note`, and is not tried again: it may be half done.
    """

    def __init__(self, study: optuna.Study, heed: Callable[[Request], None], note: Callable[[str], None]) -> None:
        self.study, self.heed, self.note = study, heed, note
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Desk":
        self._mark(list(pending(self.study)))  # left over from a process that is gone
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.closed.wait(POLL_SECONDS):
            with contextlib.suppress(optuna.exceptions.StorageInternalError):  # busy; looked at again
                for key, request in pending(self.study).items():
                    self._mark([key])
                    self._try(request)

    def _try(self, request: Request) -> None:
        try:
            self.heed(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next request must find an open desk
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self.note(f"a request from another terminal failed ({request.get('kind')}: {reason}); ask again")

    def _mark(self, keys: list[str]) -> None:
        if keys:
            self.study.set_user_attr(HEEDED, [*self.study.user_attrs.get(HEEDED, []), *keys])
