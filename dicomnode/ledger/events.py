"""The diary of a study: append-only, in the same transaction as the change that it tells of.

What the ledger itself writes: opened, ready, claimed, lease-expired, released, encoded, failed, done,
superseded, retried, replayed, sent-again, conflict, corrected, own-result, sent, confirmed, not-confirmable,
not-kept, fetched, fetch-delayed, delivery-delayed, delivery-given-up, withdrawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert

from dicomnode.ledger.encoding import to_json
from dicomnode.ledger.schema import events


def add_event(
    connection: Connection, StudyInstanceUID: str, event_kind: str, detail: Mapping[str, Any], now: float
) -> None:
    """Append one event."""
    connection.execute(
        insert(events),
        {"StudyInstanceUID": StudyInstanceUID, "at": now, "what": event_kind, "detail": to_json(detail)},
    )
