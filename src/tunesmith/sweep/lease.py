"""Who coordinates a sweep: one process at a time, by a lease in the study's own store."""

import contextlib
import datetime
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import optuna

from tunesmith.errors import StudyError, SupersededError
from tunesmith.tracking import runs

KEY = "coordinator"
BEAT_SECONDS = 10.0
LEASE_SECONDS = 120.0
CHECK_SECONDS = 1.0  # how long an answer of the store is trusted: far less than another has to wait for the lease


class Lease:
    """The right to write a study, renewed while this process lives.

    Whoever takes a study over writes a new token; the former holder, should it wake up again, finds its
    own gone and stops before it writes anything more. `also` is called at each renewal and before the end.
    """

    def __init__(self, study: optuna.Study, also: Callable[[], None] = lambda: None) -> None:
        self.study, self.also = study, also
        self.token = secrets.token_hex(8)
        self.ended = threading.Event()
        self.checked = -math.inf

    def __enter__(self) -> "Lease":
        require_free(self.study)
        self._write()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        if self.held:
            self.also()
            self.study.set_user_attr(KEY, None)

    @property
    def held(self) -> bool:
        """Whether the study is still this process's."""
        return (self.study.user_attrs.get(KEY) or {}).get("token") == self.token

    def check(self) -> None:
        """Raise `SupersededError` if another process has taken the study over; asks the store once a second at most.

        By the wall clock, which goes on while this process or machine sleeps.
        """
        at = time.time()
        if 0 <= at - self.checked < CHECK_SECONDS:
            return
        self.checked = at
        if not self.held:
            raise SupersededError(f"{self.study.study_name}: another process has taken this sweep over; this one stops")

    def _beat(self) -> None:
        while not self.ended.wait(BEAT_SECONDS):
            with contextlib.suppress(Exception):  # the store may be away for a while; `check` will tell
                if self.held:
                    self._write()
                    self.also()

    def _write(self) -> None:
        process = {"host": socket.gethostname(), "pid": os.getpid(), "started": runs.process_start(os.getpid())}
        self.study.set_user_attr(KEY, {**process, "token": self.token, "beat": now().isoformat()})


def require_free(study: optuna.Study) -> None:
    """Raise `StudyError` naming the process that runs a sweep, if one does."""
    holder = study.user_attrs.get(KEY)
    if holder and is_live(holder):
        raise StudyError(
            f"{study.study_name}: is run by process {holder['pid']} on {holder['host']}; "
            "stop that one first (tunesmith study stop)"
        )


def is_live(holder: dict[str, Any]) -> bool:
    """Whether the process that holds a lease lives; of another machine's process only its beat can tell."""
    if holder["host"] == socket.gethostname():
        return bool(holder["started"]) and runs.process_start(holder["pid"]) == holder["started"]
    beat = datetime.datetime.fromisoformat(holder["beat"])
    return (now() - beat).total_seconds() < LEASE_SECONDS


def now() -> datetime.datetime:
    """The time, with its zone."""
    return datetime.datetime.now(datetime.UTC)
