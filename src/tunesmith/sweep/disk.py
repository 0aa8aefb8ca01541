"""A disk that fills up during a sweep, as files and SQLite tell of it."""

import contextlib
import errno
import sqlite3
from collections.abc import Iterator

from tunesmith.errors import DiskError, StudyError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL_DATABASE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}
"""SQLite calls only a device full; beyond a quota it could not write, without room for its index not share memory."""


@contextlib.contextmanager
def room_on_disk() -> Iterator[None]:
    """Turn an error of the block that comes of a full disk into a `DiskError` with its remedy."""
    try:
        yield
    except Exception as error:
        found = _full(error)
        if found is None:
            raise
        raise DiskError("{}: cannot be written ({}); free some space and resume".format(*found)) from None


def _full(error: BaseException | None) -> tuple[str, BaseException] | None:
    """What is full and the error that says so, among an error and those that it comes of."""
    store = ""
    while error is not None:
        store = _store(error) or store
        if isinstance(error, OSError) and error.errno in FULL:
            return error.filename or "the disk", error
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) in FULL_DATABASE:
            return store or "a database", error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _store(error: BaseException) -> str:
    """The store that an error came out of, by whose error it is: a worker loads neither MLflow nor Optuna."""
    origin = type(error).__module__.partition(".")[0]
    if origin == "mlflow":
        from tunesmith.tracking.store import tracking_uri

        return tracking_uri()
    if origin == "optuna" or isinstance(error, StudyError):
        from tunesmith.sweep.storage import shown_url

        return shown_url()
    return ""
