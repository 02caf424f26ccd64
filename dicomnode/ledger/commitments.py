"""Storage commitment that peers ask us for.

What they asked, what is really here, and whether they have been told.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import insert, select, update

from dicomnode.ledger.database import Database
from dicomnode.ledger.encoding import from_json, received_from_row, to_json
from dicomnode.ledger.schema import commitment_requests, instances
from dicomnode.records import CommitmentRequest, ReceivedInstance, SOPReference

# SQLite takes some thousand values in one statement only.
_AT_ONCE = 500


class Commitments:
    """The part of the ledger that `receive` answers storage commitment from.

    Each verb is one transaction and may raise `RetryLater`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(
        self,
        calling_ae: str,
        peer_host: str,
        TransactionUID: str,
        references: Sequence[SOPReference],
        now: float,
        due_at: float,
    ) -> None:
        """Note a request; the same transaction of the same peer again replaces it and is answered again."""
        request_values = {
            "peer_host": peer_host,
            "asked_for": to_json(
                {"pairs": [(reference.SOPClassUID, reference.SOPInstanceUID) for reference in references]}
            ),
            "asked_at": now,
            "due_at": due_at,
            "attempts": 0,
            "last_status": "",
        }
        same_request = (
            commitment_requests.c.calling_ae == calling_ae,
            commitment_requests.c.TransactionUID == TransactionUID,
        )
        with self._database.write() as connection:
            if (
                connection.execute(
                    update(commitment_requests).where(*same_request).values(**request_values)
                ).rowcount
                == 0
            ):
                connection.execute(
                    insert(commitment_requests).values(
                        calling_ae=calling_ae, TransactionUID=TransactionUID, **request_values
                    )
                )

    def due(self, now: float, limit: int = 16) -> list[CommitmentRequest]:
        """Return the requests that are to be answered, the longest due first."""
        due = select(commitment_requests).where(commitment_requests.c.due_at <= now)
        with self._database.read() as connection:
            rows = connection.execute(
                due.order_by(commitment_requests.c.due_at, commitment_requests.c.id).limit(limit)
            ).all()
        return [
            CommitmentRequest(
                id=row.id,
                calling_ae=row.calling_ae,
                peer_host=row.peer_host,
                TransactionUID=row.TransactionUID,
                references=tuple(SOPReference(*pair) for pair in from_json(row.asked_for)["pairs"]),
                asked_at=row.asked_at,
                attempts=row.attempts,
            )
            for row in rows
        ]

    def record(self, request: CommitmentRequest, status: str, due_at: float | None) -> None:
        """Note a try to answer; without `due_at` there is nothing left to say.

        A request that came again meanwhile stays as it is.
        """
        same_request = (
            commitment_requests.c.id == request.id,
            commitment_requests.c.asked_at == request.asked_at,
        )
        values = {"attempts": request.attempts + 1, "last_status": status, "due_at": due_at}
        with self._database.write() as connection:
            connection.execute(update(commitment_requests).where(*same_request).values(**values))

    def stored(self, SOPInstanceUIDs: Sequence[str]) -> dict[str, list[ReceivedInstance]]:
        """Return what was received under each of these UIDs; a UID that never came is left out."""
        by_uid: dict[str, list[ReceivedInstance]] = {}
        with self._database.read() as connection:
            for first in range(0, len(SOPInstanceUIDs), _AT_ONCE):
                batch_query = select(instances).where(
                    instances.c.SOPInstanceUID.in_(SOPInstanceUIDs[first : first + _AT_ONCE])
                )
                for row in connection.execute(batch_query.order_by(instances.c.arrival)):
                    by_uid.setdefault(row.SOPInstanceUID, []).append(received_from_row(row))
        return by_uid
