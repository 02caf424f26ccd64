"""Figures that outlive a process: what was counted, and signs of life.

Counts are made in the transaction of what they count, so they neither miss nor repeat anything; what has no
such transaction (a caller who is turned away) is added by its process now and then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select, text

from dicomnode.ledger.database import Database
from dicomnode.ledger.schema import figures

SEPARATOR = "|"
"""Between the values of a label that has several."""

STEP_BUCKETS_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
ANSWER_BUCKETS_S = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
ABOVE = "+Inf"

# Understood by SQLite (since 3.24) and by PostgreSQL.
_ADD = text(
    "INSERT INTO figures (name, label, value) VALUES (:name, :label, :value) "
    "ON CONFLICT (name, label) DO UPDATE SET value = figures.value + excluded.value"
)
_SET = text(
    "INSERT INTO figures (name, label, value) VALUES (:name, :label, :value) "
    "ON CONFLICT (name, label) DO UPDATE SET value = excluded.value"
)

Amounts = Mapping[tuple[str, str], float]
"""(name, label) -> amount."""


class Figures:
    """The part of the ledger that counts; each verb is one transaction and may raise `RetryLater`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, amounts: Amounts) -> None:
        """Add to counts."""
        if amounts:
            with self._database.write() as connection:
                count(connection, amounts)

    def put(self, name: str, label: str, value: float) -> None:
        """Put a value in the place of the one before."""
        with self._database.write() as connection:
            replace_value(connection, name, label, value)

    def read(self) -> dict[str, dict[str, float]]:
        """Return name -> label -> value."""
        values: dict[str, dict[str, float]] = {}
        with self._database.read() as connection:
            for row in connection.execute(select(figures)):
                values.setdefault(row.name, {})[row.label] = row.value
        return values


def count(connection: Connection, amounts: Amounts) -> None:
    """Add to counts inside a transaction.

    The order is always the same, so that two transactions never wait for each other.
    """
    rows = [
        {"name": name, "label": label, "value": value} for (name, label), value in sorted(amounts.items())
    ]
    if rows:
        connection.execute(_ADD, rows)


def replace_value(connection: Connection, name: str, label: str, value: float) -> None:
    """Put a value in the place of the one before, inside a transaction."""
    connection.execute(_SET, {"name": name, "label": label, "value": value})


def observed(name: str, label: str, seconds: float, buckets: Sequence[float]) -> dict[tuple[str, str], float]:
    """Return what one measurement adds to a histogram; buckets are not cumulative here."""
    upper = next((f"{bucket:g}" for bucket in buckets if seconds <= bucket), ABOVE)
    return {
        (f"{name}_bucket", f"{label}{SEPARATOR}{upper}"): 1.0,
        (f"{name}_sum", label): seconds,
    }
