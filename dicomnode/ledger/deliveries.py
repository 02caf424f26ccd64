"""The outbox: results on their way to destinations, claimed by state change with a lease."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from dicomnode.ledger import outbox
from dicomnode.ledger.database import Database
from dicomnode.ledger.encoding import delivery_from_rows
from dicomnode.ledger.schema import deliveries, jobs, results
from dicomnode.records import Delivery
from dicomnode.states import DeliveryState, JobState


class Deliveries:
    """The part of the ledger that sending works with.

    Each verb is one transaction and may raise `RetryLater`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def due_destinations(self, now: float) -> list[str]:
        """Return the destinations that something is due for and that nobody is sending to at this moment."""
        with self._database.read() as connection:
            busy = select(deliveries.c.destination).where(
                deliveries.c.state == DeliveryState.SENDING.value, deliveries.c.lease_until >= now
            )
            due = (
                select(deliveries.c.destination)
                .distinct()
                .where(_is_due(now), deliveries.c.destination.not_in(busy))
            )
            return list(connection.execute(due.order_by(deliveries.c.destination)).scalars())

    def claim(
        self, owner: str, now: float, lease_s: float, limit: int, *, destination: str | None = None
    ) -> list[Delivery]:
        """Take up to `limit` due deliveries for `owner`, longest due first: DUE -> SENDING."""
        with self._database.write() as connection:
            due = (
                select(deliveries)
                .where(_is_due(now))
                .order_by(deliveries.c.next_attempt_at, deliveries.c.id)
                .limit(limit)
            )
            if destination is not None:
                due = due.where(deliveries.c.destination == destination)
            claimed = []
            for row in connection.execute(due.with_for_update(skip_locked=True)).all():
                if (
                    row.state == DeliveryState.SENDING.value
                    and outbox.give_back(connection, row, now, "the lease ran out") is DeliveryState.WITHDRAWN
                ):
                    continue
                fresh = outbox.fetch(connection, row.id)
                outbox.move(
                    connection,
                    fresh,
                    DeliveryState.SENDING,
                    now,
                    attempts=fresh.attempts + 1,
                    owner=owner,
                    lease_until=now + lease_s,
                )
                result = connection.execute(select(results).where(results.c.id == row.result_id)).one()
                claimed.append(delivery_from_rows(outbox.fetch(connection, row.id), result))
            return claimed

    def renew(self, owner: str, now: float, lease_s: float) -> set[int]:
        """Prolong the lease of everything that `owner` is sending; return which deliveries those are."""
        with self._database.write() as connection:
            is_held = and_(deliveries.c.owner == owner, deliveries.c.state == DeliveryState.SENDING.value)
            ids = set(connection.execute(select(deliveries.c.id).where(is_held).with_for_update()).scalars())
            connection.execute(update(deliveries).where(is_held).values(lease_until=now + lease_s))
            return ids

    def record(
        self,
        delivery_id: int,
        state: DeliveryState,
        status: str,
        now: float,
        next_attempt_at: float | None = None,
        *,
        owner: str | None = None,
        confirm_at: float | None = None,
    ) -> bool:
        """Note what became of a delivery; a failed one of a superseded job is withdrawn.

        False when `owner` no longer holds it.

        What is sent with a `confirm_at` is not done yet: `confirmations` asks after it then.
        """
        with self._database.write() as connection:
            return outbox.record(
                connection, delivery_id, state, status, now, next_attempt_at, owner, confirm_at
            )

    def given_up_in_another_form(self, destination: str, kinds: Sequence[str], before: float) -> list[str]:
        """Return the answered studies of which a destination was given up before a time.

        What was given up is of none of these kinds.
        """
        with self._database.read() as connection:
            refused = and_(
                deliveries.c.state == DeliveryState.GIVEN_UP.value, deliveries.c.destination == destination
            )
            refused_in_another_form = and_(
                refused,
                results.c.kind.not_in(kinds),
                deliveries.c.updated_at <= before,
                jobs.c.state == JobState.ENCODED.value,
            )
            joined = (
                select(deliveries.c.StudyInstanceUID)
                .distinct()
                .join(results, results.c.id == deliveries.c.result_id)
            )
            return list(
                connection.execute(
                    joined.join(jobs, jobs.c.id == deliveries.c.job_id).where(refused_in_another_form)
                ).scalars()
            )

    def release_owner(self, owner_prefix: str, now: float) -> int:
        """Make due again what a dead owner was sending: SENDING -> DUE."""
        with self._database.write() as connection:
            is_held = and_(
                deliveries.c.state == DeliveryState.SENDING.value,
                deliveries.c.owner.startswith(owner_prefix, autoescape=True),
            )
            rows = connection.execute(select(deliveries).where(is_held).with_for_update()).all()
            for row in rows:
                outbox.give_back(connection, row, now, "the sender stopped")
            return len(rows)


def _is_due(now: float) -> ColumnElement[bool]:
    return or_(
        and_(deliveries.c.state == DeliveryState.DUE.value, deliveries.c.next_attempt_at <= now),
        and_(deliveries.c.state == DeliveryState.SENDING.value, deliveries.c.lease_until < now),
    )
