"""Where studies are kept: a database of their own, looked at before Optuna writes to it."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError

from tunesmith.errors import StudyError
from tunesmith.tracking.store import project_root

VARIABLE = "TUNESMITH_STUDY_STORAGE"
STUDIES = "studies"  # the first table that Optuna creates


def storage_url() -> str:
    """`TUNESMITH_STUDY_STORAGE`, else an SQLite file in the project root."""
    return os.environ.get(VARIABLE) or f"sqlite:///{project_root() / 'optuna.db'}"


def shown_url() -> str:
    """The store's URL without its password."""
    return _parsed().render_as_string(hide_password=True)


def open_storage() -> RDBStorage:
    """The store, with Optuna's tables; raises `StudyError` if it cannot be used or is another program's."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _tables()
    url = _parsed()
    with _explained():
        literal = storage_url().replace("{", "{{").replace("}", "}}")  # Optuna takes it for a template
        storage = RDBStorage(literal, engine_kwargs=_options(url))
        if url.get_backend_name() == "sqlite":
            _write_ahead(storage)
    return storage


def open_known() -> RDBStorage | None:
    """The store for whoever only reads; None, and nothing is created, where there is no study yet."""
    return open_storage() if _tables() else None


def _tables() -> set[str]:
    """The tables of the store, none of a fresh one; raises `StudyError` if they are another program's."""
    url = _parsed()
    if url.get_backend_name() == "sqlite" and not _file(url).exists():
        return set()
    with _explained():
        engine = sqlalchemy.create_engine(url, **_options(url))
        try:
            names = set(sqlalchemy.inspect(engine).get_table_names())
        finally:
            engine.dispose()
    if names and STUDIES not in names:
        raise _refusal("holds another program's tables; name a database of its own")
    return names


def _parsed() -> URL:
    try:
        return make_url(storage_url())
    except (ArgumentError, ValueError):
        before, at, after = storage_url().rpartition("@")
        shown = f"{before.partition(':')[0]}:***@{after}" if at else after
        form = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
        raise StudyError(f"{VARIABLE} {shown}: is no database URL; write it as {form}, or unset it") from None


def _file(url: URL) -> pathlib.Path:
    """The file of an SQLite database, which need not exist yet."""
    if not url.database or url.database == ":memory:":
        raise _refusal("would be forgotten when this process ends; name a file")
    file = pathlib.Path(url.database)
    if not file.parent.is_dir():
        raise _refusal(f"the folder {file.parent} does not exist; create it, or name another one")
    return file


def _options(url: URL) -> dict[str, Any]:
    return {"connect_args": {"timeout": 60}} if url.get_backend_name() == "sqlite" else {}


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what keeps the block from using the store into a `StudyError`."""
    try:
        yield
    except ImportError as error:
        raise _refusal(f"its driver is missing ({error}); install it, or name another database") from None
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = str(cause.orig if isinstance(cause, DBAPIError) else cause).splitlines()[0]
        raise _refusal(f"cannot be used ({reason}); mend it, or name another database") from cause
    except RuntimeError as error:  # its tables are another Optuna's
        raise _refusal(str(error)) from None


def _refusal(problem: str) -> StudyError:
    return StudyError(f"{VARIABLE} {shown_url()}: {problem}")


def _write_ahead(storage: RDBStorage) -> None:
    """Have SQLite write ahead to a log: one flush to the disk a transaction instead of four, just as safe.

    The file keeps it. Where others are at it, or the file system cannot, it stays as it was.
    """
    with storage.engine.connect() as connection, contextlib.suppress(OperationalError):
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
