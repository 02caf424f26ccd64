"""Brings the ledger's tables to the newest revision, safely when two processes start at once."""

from __future__ import annotations

from alembic.command import upgrade
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DatabaseError

from dicomnode.errors import RetryLater, StartError
from dicomnode.ledger.database import Database
from dicomnode.ledger.schema import metadata

# Any number that nothing else in the same PostgreSQL database locks: "dicomnode" on a telephone keypad.
_ADVISORY_LOCK = 342666633


def migrate(database: Database) -> None:
    """Create or upgrade the tables in one transaction; the second of two processes waits for the first.

    Raises
    ------
    StartError
        The file is not a ledger, a newer version of the node made it, or a table or column of it is gone.
    """
    try:
        with database.write() as connection:
            if not database.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            _upgrade(connection)
            _check_tables(connection)
    except CommandError as problem:
        raise StartError(f"the ledger was made by another version of dicomnode: {problem}") from problem
    except RetryLater as problem:
        raise StartError(str(problem)) from problem
    except DatabaseError as problem:
        advice = (
            "; if it is damaged, move ledger.sqlite3* away and start again: a new one is made from the spool"
            if database.is_sqlite
            else ""
        )
        raise StartError(f"the ledger cannot be opened: {problem.orig}{advice}") from problem


def alembic_config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration for the revisions in this package."""
    config = Config()
    config.set_main_option("script_location", "dicomnode.ledger:migrations")
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    config = alembic_config(connection)
    head = ScriptDirectory.from_config(config).get_current_head()
    if MigrationContext.configure(connection).get_current_revision() != head:
        upgrade(config, "head")


def _check_tables(connection: Connection) -> None:
    """Raise `StartError` when the revision promises more than is there.

    Found later, it would fail one study after the other.
    """
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    missing = sorted(metadata.tables.keys() - tables)
    for name in sorted(metadata.tables.keys() & tables):
        columns = {column["name"] for column in inspector.get_columns(name)}
        missing += [
            f"{name}.{column.name}" for column in metadata.tables[name].columns if column.name not in columns
        ]
    if missing:
        raise StartError(
            f"the ledger lacks {', '.join(missing)}: "
            "restore it from a backup, or move it away and start again: "
            "a new one is made from the spool"
        )
