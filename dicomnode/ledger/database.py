"""Connections and transactions: one engine, one writer at a time, errors told apart.

Rules for this file:
1. It knows no table.
2. On SQLite a transaction that may write begins IMMEDIATE: a deferred one that finds another writer half-way cannot wait, it fails.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from dicomnode.errors import RetryLater, StartError

_BUSY_TIMEOUT_MS = 20_000
_PRAGMAS = (
    # First, so that the ones below wait too.
    f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}",
    "PRAGMA journal_mode = WAL",
    # In WAL mode a power cut may take the last commits but never breaks the file; the spool is the truth they are derived from.
    "PRAGMA synchronous = NORMAL",
    "PRAGMA foreign_keys = ON",
)


class Database:
    """The engine and its two kinds of transaction.

    Parameters
    ----------
    url
        SQLAlchemy URL, such as ``sqlite:////var/lib/dicomnode/ledger.sqlite3``; an in-memory SQLite is refused, two processes share the ledger.

    Raises
    ------
    StartError
        The URL is not understood, or its folder cannot be made.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._writer = self._engine.execution_options(ledger_writes=True)
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        # SQLite makes a waiting writer sleep and try again; threads of one process wait for each other here, without the sleeping.
        self._one_writer = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Begin a transaction that sees one moment of the ledger."""
        with _passing_faults_are_retried(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Begin a transaction that may write; it is committed at the end, or rolled back when something is raised.

        Raises
        ------
        RetryLater
            Another process kept the ledger locked, the disk is full, or the server is away.
        """
        with _passing_faults_are_retried():
            if not self.is_sqlite:
                with self._writer.begin() as connection:
                    yield connection
                return
            with self._one_writer, self._writer.begin() as connection:
                yield connection

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


@contextmanager
def _passing_faults_are_retried() -> Iterator[None]:
    try:
        yield
    except OperationalError as fault:
        raise RetryLater(f"the ledger is not available: {fault.orig}") from fault


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return create_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ImportError) as problem:
        raise StartError(f"storage.ledger_url {url!r} cannot be used: {problem}") from problem
    if not parsed.database or parsed.database == ":memory:":
        raise StartError("storage.ledger_url: the ledger needs a file, receive and work share it")
    try:
        Path(parsed.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise StartError(f"the folder of the ledger {parsed.database} cannot be made: {problem.strerror}") from problem
    engine = create_engine(parsed, max_overflow=-1, connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transactions begin too late (and never for DDL); `_begin_sqlite` says BEGIN instead.
    connection.isolation_level = None
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("ledger_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
