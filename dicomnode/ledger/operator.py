"""What an operator may order for one study: wait for more images, send all results again.

`jobs.retry` is a third order, next to the job's other verbs.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select, update

from dicomnode.errors import NodeError
from dicomnode.ledger import outbox, revisions
from dicomnode.ledger.database import Database
from dicomnode.ledger.schema import deliveries
from dicomnode.states import DeliveryState, JobState

_ENDED = (JobState.ENCODED.value, JobState.DONE.value, JobState.FAILED.value)
_LEFT = (DeliveryState.SENT.value, DeliveryState.CONFIRMED.value)


class Operator:
    """Verbs of an operator; each is one transaction.

    Each may raise `RetryLater`, and `NodeError` when the order cannot be carried out.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def reopen(self, StudyInstanceUID: str, now: float) -> None:
        """Let an answered study wait until it is complete again; what has not left is withdrawn."""
        with self._database.write() as connection:
            row = _ended_job(connection, StudyInstanceUID, "reopened")
            outbox.withdraw_unsent(connection, row.id, now)
            reason = "reopened by the operator"
            revisions.move(
                connection,
                row,
                JobState.WAITING,
                now,
                attempts=0,
                outcome=None,
                reason=reason,
                not_before=now,
            )
            revisions.record_event(connection, row, "reopened", {"was": row.state, "reason": reason}, now)

    def deliver_again(self, StudyInstanceUID: str, now: float) -> int:
        """Make every delivery of the newest answer due now, also what arrived; return how many."""
        with self._database.write() as connection:
            row = _ended_job(connection, StudyInstanceUID, "delivered again")
            revived = outbox.revive(connection, row.id, now)
            left = select(deliveries).where(deliveries.c.job_id == row.id, deliveries.c.state.in_(_LEFT))
            arrived = connection.execute(left.with_for_update()).all()
            for delivery in arrived:
                outbox.resend(connection, delivery.id, "to be sent again by the operator", now, now)
            # Ordered by a person, so it does not count as one that the peer lost.
            ids = [delivery.id for delivery in arrived]
            connection.execute(update(deliveries).where(deliveries.c.id.in_(ids)).values(resends=0))
            count = revived + len(arrived)
            if not count:
                raise NodeError(f"study {StudyInstanceUID} has no results that go to a destination")
            revisions.record_event(connection, row, "delivered-again", {"deliveries": count}, now)
            return count


def _ended_job(connection: Connection, StudyInstanceUID: str, verb: str) -> Row[Any]:
    row = revisions.newest_job(connection, StudyInstanceUID)
    if row is None:
        raise NodeError(f"study {StudyInstanceUID} is not known; retention may have removed it")
    if row.state not in _ENDED:
        raise NodeError(f"study {StudyInstanceUID} is {row.state}; it has no answer that could be {verb} yet")
    if outbox.is_sending(connection, row.id):
        raise NodeError(f"a result of study {StudyInstanceUID} is being sent; try again in a moment")
    return row
