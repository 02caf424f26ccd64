"""Connections and transactions: one engine, one writer at a time, errors told apart.

Rules for this file:
1. It knows no table.
2. On SQLite a transaction that may write begins IMMEDIATE: a deferred one that finds another writer half-way
   cannot wait, it fails.
3. Waiting for the other process is ours: SQLite's own waiting sleeps up to 100 ms at a time, and an
   acknowledgement waits for this.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError, OperationalError

from dicomnode.errors import RetryLater, StartError

_PATIENCE_S = 20.0
_FIRST_PAUSE_S = 0.0002
_LONGEST_PAUSE_S = 0.002
_PRAGMAS = (
    # First, so that the ones below wait too.
    f"PRAGMA busy_timeout = {_PATIENCE_S * 1000:.0f}",
    "PRAGMA journal_mode = WAL",
    # In WAL mode a power cut may take the last commits but never breaks the file; the spool is the truth they
    # are derived from.
    "PRAGMA synchronous = NORMAL",
    "PRAGMA foreign_keys = ON",
    # In pages of 4 KiB. A checkpoint syncs the disk while a sender waits for its answer: four times rarer
    # than by default.
    "PRAGMA wal_autocheckpoint = 4000",
)


class Database:
    """The engine and its two kinds of transaction.

    Parameters
    ----------
    url
        SQLAlchemy URL, such as ``sqlite:////var/lib/dicomnode/ledger.sqlite3``; an in-memory SQLite is
        refused, two processes share the ledger.

    Raises
    ------
    StartError
        The URL is not understood, or its folder cannot be made.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self._writer = self._engine.execution_options(ledger_writes=True)
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        # On SQLite every transaction sees one moment; PostgreSQL has to be asked.
        self._reader = (
            self._engine
            if self.is_sqlite
            else self._engine.execution_options(isolation_level="REPEATABLE READ")
        )
        # SQLite makes a waiting writer sleep and try again; threads of one process wait for each other here,
        # without the sleeping.
        self._one_writer = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Begin a transaction that sees one moment of the ledger."""
        with _passing_faults_are_retried(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Begin a transaction that may write.

        It is committed at the end, or rolled back when something is raised.

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
    except sqlite3.OperationalError as fault:
        raise RetryLater(f"the ledger is not available: {fault}") from fault
    except (DatabaseError, sqlite3.DatabaseError) as fault:
        cause = fault.orig if isinstance(fault, DatabaseError) else fault
        if getattr(cause, "sqlite_errorcode", None) != sqlite3.SQLITE_CORRUPT:
            raise
        # Nothing that is retried does harm, and whoever waits for it is told.
        raise RetryLater(
            f"the ledger is damaged: {cause}; stop the node, move ledger.sqlite3* away and start again: "
            "a new one is made from the spool"
        ) from fault


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return create_engine(parsed, pool_pre_ping=True)
    except (ArgumentError, NoSuchModuleError, ImportError) as problem:
        raise StartError(f"storage.ledger_url cannot be used: {problem}") from problem
    if not parsed.database or parsed.database == ":memory:":
        raise StartError("storage.ledger_url: the ledger needs a file, receive and work share it")
    try:
        Path(parsed.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise StartError(
            f"the folder of the ledger {parsed.database} cannot be made: {problem.strerror}"
        ) from problem
    engine = create_engine(parsed, max_overflow=-1, connect_args={"timeout": _PATIENCE_S})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transactions begin too late (and never for DDL); `_begin_sqlite` says BEGIN instead.
    connection.isolation_level = None
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _begin_sqlite(connection: Connection) -> None:
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"the SQLite driver gave a {type(driver).__name__}")
    if not connection.get_execution_options().get("ledger_writes", False):
        driver.execute("BEGIN")
        return
    (patience_ms,) = driver.execute("PRAGMA busy_timeout").fetchone()
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        _take_turn(driver, time.monotonic() + patience_ms / 1000)
    finally:
        driver.execute(f"PRAGMA busy_timeout = {patience_ms}")


def _take_turn(driver: sqlite3.Connection, deadline: float) -> None:
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            driver.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as fault:
            # The lower byte is the primary code; the rest says which kind of busy.
            if fault.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
