"""What was sent and is to be proved: claimed by moving its time, asked after, settled.

Storage commitment that we asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, insert, select, update

from dicomnode.errors import StateError
from dicomnode.ledger import outbox
from dicomnode.ledger.database import Database
from dicomnode.ledger.encoding import delivery_from_rows, from_json, to_json
from dicomnode.ledger.events import add_event
from dicomnode.ledger.schema import deliveries, results, transactions
from dicomnode.records import CommitmentReport, Unconfirmed
from dicomnode.states import DeliveryState

_UNPROVED = and_(deliveries.c.state == DeliveryState.SENT.value, deliveries.c.confirm_at.is_not(None))


class Confirmations:
    """The part of the ledger that proves deliveries.

    Each verb is one transaction and may raise `RetryLater`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def due_destinations(self, now: float) -> list[str]:
        """Return the destinations that are to be asked after something."""
        due = select(deliveries.c.destination).distinct().where(_UNPROVED, deliveries.c.confirm_at <= now)
        with self._database.read() as connection:
            return list(connection.execute(due.order_by(deliveries.c.destination)).scalars())

    def claim(self, destination: str, now: float, lease_s: float, limit: int) -> list[Unconfirmed]:
        """Take what is due to be asked after.

        Nobody else gets it within `lease_s`, and who dies leaves it to the next.
        """
        due = select(deliveries).where(
            _UNPROVED, deliveries.c.destination == destination, deliveries.c.confirm_at <= now
        )
        with self._database.write() as connection:
            rows = connection.execute(
                due.order_by(deliveries.c.confirm_at, deliveries.c.id)
                .limit(limit)
                .with_for_update(skip_locked=True)
            ).all()
            claimed = [_unconfirmed(connection, row) for row in rows]
            for row in rows:
                _note(connection, row, confirm_at=now + lease_s)
            return claimed

    def open_transaction(
        self, TransactionUID: str, destination: str, delivery_ids: Sequence[int], deadline: float, now: float
    ) -> None:
        """Write down a storage commitment before it is asked for.

        What it is about is due again at `deadline`.
        """
        with self._database.write() as connection:
            connection.execute(
                insert(transactions).values(
                    TransactionUID=TransactionUID, destination=destination, asked_at=now, reported_at=None
                )
            )
            for delivery_id in delivery_ids:
                row = _fetch(connection, delivery_id)
                if row.state == DeliveryState.SENT.value:
                    _note(
                        connection,
                        row,
                        TransactionUID=TransactionUID,
                        confirm_at=deadline,
                        confirm_tries=row.confirm_tries + 1,
                    )

    def report(self, report: CommitmentReport, now: float) -> bool:
        """Journal what a peer said about a transaction of ours and make it due at once.

        False when there is no such transaction.

        "It is safe" holds however late it comes; "it is not" only for the transaction that was asked for
        last.
        """
        with self._database.write() as connection:
            same_transaction = transactions.c.TransactionUID == report.TransactionUID
            row = connection.execute(
                select(transactions).where(same_transaction).with_for_update()
            ).one_or_none()
            if row is None:
                return False
            verdicts = {reference.SOPInstanceUID: 0 for reference in report.committed}
            verdicts |= {reference.SOPInstanceUID: reason for reference, reason in report.failed}
            verdicts_so_far = from_json(row.report) | verdicts if row.report else verdicts
            connection.execute(
                update(transactions)
                .where(same_transaction)
                .values(reported_at=now, report=to_json(verdicts_so_far))
            )
            of_it = select(deliveries, results.c.SOPInstanceUID).join(
                results, results.c.id == deliveries.c.result_id
            )
            meant = of_it.where(
                _UNPROVED, deliveries.c.destination == row.destination, results.c.SOPInstanceUID.in_(verdicts)
            )
            for delivery in connection.execute(meant).all():
                if verdicts[delivery.SOPInstanceUID] == 0 or delivery.TransactionUID == report.TransactionUID:
                    _note(connection, delivery, TransactionUID=report.TransactionUID, confirm_at=now)
            return True

    def postpone(self, delivery_id: int, at: float, status: str, now: float, *, tries: int) -> None:
        """Ask again at a time, with so many tries counted; what was reported on meanwhile stays due."""
        with self._database.write() as connection:
            row = _fetch(connection, delivery_id)
            if row.state == DeliveryState.SENT.value and not _report_of(connection, row.TransactionUID):
                _note(
                    connection,
                    row,
                    confirm_at=at,
                    last_status=status,
                    TransactionUID=None,
                    updated_at=now,
                    confirm_tries=tries,
                )

    def settle_unproved(self, delivery_id: int, status: str, now: float) -> None:
        """Leave it at "sent": the peer has no way to prove more."""
        with self._database.write() as connection:
            row = _fetch(connection, delivery_id)
            if row.state == DeliveryState.SENT.value:
                _note(connection, row, confirm_at=None, last_status=status, updated_at=now)
                _tell(connection, row, "not-confirmable", status, now)

    def settle(
        self, delivery_id: int, state: DeliveryState, status: str, now: float, resend_at: float | None = None
    ) -> bool:
        """SENT -> CONFIRMED or GIVEN_UP, or -> DUE at `resend_at`; False when it is not `sent` any more."""
        with self._database.write() as connection:
            row = _fetch(connection, delivery_id)
            if row.state != DeliveryState.SENT.value:
                return False
            if state is DeliveryState.DUE:
                _tell(connection, row, "not-kept", status, now)
                outbox.resend(connection, delivery_id, status, now, now if resend_at is None else resend_at)
                return True
            _note(connection, row, confirm_at=None, TransactionUID=None)
            return outbox.record(connection, delivery_id, state, status, now, None, None)


def _unconfirmed(connection: Connection, row: Row[Any]) -> Unconfirmed:
    result = connection.execute(select(results).where(results.c.id == row.result_id)).one()
    verdict = _report_of(connection, row.TransactionUID).get(result.SOPInstanceUID)
    sent_at = row.updated_at if row.sent_at is None else row.sent_at
    return Unconfirmed(
        delivery_from_rows(row, result), sent_at, row.confirm_tries, row.resends, row.TransactionUID, verdict
    )


def _report_of(connection: Connection, TransactionUID: str | None) -> Mapping[str, int]:
    verdicts_so_far = connection.execute(
        select(transactions.c.report).where(transactions.c.TransactionUID == TransactionUID)
    ).scalar_one_or_none()
    return from_json(verdicts_so_far) if verdicts_so_far else {}


def _fetch(connection: Connection, delivery_id: int) -> Row[Any]:
    row = connection.execute(
        select(deliveries).where(deliveries.c.id == delivery_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise StateError(f"delivery {delivery_id} is not in the ledger")
    return row


def _note(connection: Connection, row: Row[Any], **values: Any) -> None:
    connection.execute(update(deliveries).where(deliveries.c.id == row.id).values(**values))


def _tell(connection: Connection, row: Row[Any], event_kind: str, status: str, now: float) -> None:
    detail = {"destination": row.destination, "delivery_id": row.id, "resends": row.resends, "status": status}
    add_event(connection, row.StudyInstanceUID, event_kind, detail, now)
