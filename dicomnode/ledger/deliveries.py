"""The outbox: results on their way to destinations, claimed by state change with a lease."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from dicomnode.errors import StateError
from dicomnode.ledger.encoding import delivery_from_rows
from dicomnode.ledger.events import add_event
from dicomnode.ledger.schema import deliveries, jobs, results
from dicomnode.records import Delivery
from dicomnode.states import DeliveryState, JobState, advance

_UNSENT = (DeliveryState.DUE.value, DeliveryState.GIVEN_UP.value)


def due_destinations(connection: Connection, now: float) -> list[str]:
    """Return the destinations that something is due for and that nobody is sending to at this moment."""
    busy = select(deliveries.c.destination).where(deliveries.c.state == DeliveryState.SENDING.value, deliveries.c.lease_until >= now)
    due = select(deliveries.c.destination).distinct().where(_is_due(now), deliveries.c.destination.not_in(busy))
    return list(connection.execute(due.order_by(deliveries.c.destination)).scalars())


def claim(connection: Connection, owner: str, now: float, lease_s: float, limit: int, destination: str | None) -> list[Delivery]:
    """Take up to `limit` due deliveries for `owner`, longest due first: DUE -> SENDING."""
    due = select(deliveries).where(_is_due(now)).order_by(deliveries.c.next_attempt_at, deliveries.c.id).limit(limit)
    if destination is not None:
        due = due.where(deliveries.c.destination == destination)
    claimed = []
    for row in connection.execute(due.with_for_update(skip_locked=True)).all():
        if row.state == DeliveryState.SENDING.value and _give_back(connection, row, now, "the lease ran out") is DeliveryState.WITHDRAWN:
            continue
        fresh = _fetch(connection, row.id)
        _move(connection, fresh, DeliveryState.SENDING, now, attempts=fresh.attempts + 1, owner=owner, lease_until=now + lease_s)
        result = connection.execute(select(results).where(results.c.id == row.result_id)).one()
        claimed.append(delivery_from_rows(_fetch(connection, row.id), result))
    return claimed


def renew(connection: Connection, owner: str, now: float, lease_s: float) -> set[int]:
    """Prolong the lease of everything that `owner` is sending; return which deliveries those are."""
    held = and_(deliveries.c.owner == owner, deliveries.c.state == DeliveryState.SENDING.value)
    ids = set(connection.execute(select(deliveries.c.id).where(held).with_for_update()).scalars())
    connection.execute(update(deliveries).where(held).values(lease_until=now + lease_s))
    return ids


def record(
    connection: Connection,
    delivery_id: int,
    state: DeliveryState,
    status: str,
    now: float,
    next_attempt_at: float | None,
    owner: str | None,
    confirm_at: float | None = None,
) -> bool:
    """Note what became of a delivery; False, and nothing noted, when `owner` is given and no longer holds it.

    What is sent with a `confirm_at` is asked after then.
    """
    row = _fetch(connection, delivery_id)
    if owner is not None and (row.owner != owner or row.state != DeliveryState.SENDING.value):
        return False
    if state is DeliveryState.DUE:
        _give_back(connection, row, now, status, next_attempt_at)
        return True
    failed = {"first_failed_at": row.first_failed_at or now} if state is DeliveryState.GIVEN_UP else {}
    sent = {"sent_at": now, "confirm_at": confirm_at, "confirm_tries": 0} if state is DeliveryState.SENT else {}
    _move(connection, row, state, now, last_status=status, owner=None, lease_until=None, **failed, **sent)
    _tell(connection, row, {DeliveryState.GIVEN_UP: "delivery-given-up"}.get(state, state.value), status, now)
    if state is DeliveryState.GIVEN_UP:
        _withdraw_if_superseded(connection, delivery_id, now)
    return True


def resend(connection: Connection, delivery_id: int, status: str, now: float, at: float) -> None:
    """SENT -> DUE at a time: the peer said that it has it and does not. What was superseded meanwhile is withdrawn instead."""
    row = _fetch(connection, delivery_id)
    asked = {"confirm_at": None, "TransactionUID": None, "resends": row.resends + 1}
    _move(connection, row, DeliveryState.DUE, now, next_attempt_at=at, last_status=status, attempts=0, first_failed_at=None, **asked)
    _withdraw_if_superseded(connection, delivery_id, now)


def revive(connection: Connection, job_id: int, now: float) -> int:
    """Make a job's given-up and backed-off deliveries due now, as if never tried; return how many."""
    afresh: dict[str, Any] = {"attempts": 0, "next_attempt_at": now, "first_failed_at": None, "resends": 0}
    unsent = select(deliveries).where(deliveries.c.job_id == job_id, deliveries.c.state.in_(_UNSENT)).with_for_update()
    rows = connection.execute(unsent).all()
    for row in rows:
        if row.state == DeliveryState.GIVEN_UP.value:
            _move(connection, row, DeliveryState.DUE, now, **afresh)
        else:
            connection.execute(update(deliveries).where(deliveries.c.id == row.id).values(updated_at=now, **afresh))
    return len(rows)


def is_sending(connection: Connection, job_id: int) -> bool:
    """Say whether a result of this job is being sent at this moment."""
    sending = select(deliveries.c.id).where(deliveries.c.job_id == job_id, deliveries.c.state == DeliveryState.SENDING.value)
    return connection.execute(sending.limit(1)).first() is not None


def withdraw_unsent(connection: Connection, job_id: int, now: float) -> int:
    """Withdraw what has not left yet; what is being sent is withdrawn when that send fails. Return how many."""
    unsent = select(deliveries).where(deliveries.c.job_id == job_id, deliveries.c.state.in_(_UNSENT)).with_for_update()
    rows = connection.execute(unsent).all()
    for row in rows:
        _move(connection, row, DeliveryState.WITHDRAWN, now)
        _tell(connection, row, "withdrawn", "superseded before it left", now)
    return len(rows)


def given_up_in_another_form(connection: Connection, destination: str, kinds: Sequence[str], before: float) -> list[str]:
    """Return the answered studies of which a destination was given up before a time with what is none of these kinds."""
    refused = and_(deliveries.c.state == DeliveryState.GIVEN_UP.value, deliveries.c.destination == destination)
    other = and_(refused, results.c.kind.not_in(kinds), deliveries.c.updated_at <= before, jobs.c.state == JobState.ENCODED.value)
    joined = select(deliveries.c.StudyInstanceUID).distinct().join(results, results.c.id == deliveries.c.result_id)
    return list(connection.execute(joined.join(jobs, jobs.c.id == deliveries.c.job_id).where(other)).scalars())


def release_owner(connection: Connection, owner_prefix: str, now: float) -> int:
    """Make due again what a dead owner was sending: SENDING -> DUE."""
    held = and_(deliveries.c.state == DeliveryState.SENDING.value, deliveries.c.owner.startswith(owner_prefix, autoescape=True))
    rows = connection.execute(select(deliveries).where(held).with_for_update()).all()
    for row in rows:
        _give_back(connection, row, now, "the sender stopped")
    return len(rows)


def _is_due(now: float) -> ColumnElement[bool]:
    return or_(
        and_(deliveries.c.state == DeliveryState.DUE.value, deliveries.c.next_attempt_at <= now),
        and_(deliveries.c.state == DeliveryState.SENDING.value, deliveries.c.lease_until < now),
    )


def _fetch(connection: Connection, delivery_id: int) -> Row[Any]:
    row = connection.execute(select(deliveries).where(deliveries.c.id == delivery_id).with_for_update()).one_or_none()
    if row is None:
        raise StateError(f"delivery {delivery_id} is not in the ledger")
    return row


def _give_back(connection: Connection, row: Row[Any], now: float, status: str, next_attempt_at: float | None = None) -> DeliveryState:
    values: dict[str, Any] = {"owner": None, "lease_until": None, "last_status": status}
    if next_attempt_at is not None:
        values |= {"next_attempt_at": next_attempt_at, "first_failed_at": row.first_failed_at or now}
    _move(connection, row, DeliveryState.DUE, now, **values)
    # An archive that is away for a day says the same every few minutes; once is enough.
    if status != row.last_status:
        _tell(connection, row, "delivery-delayed", status, now)
    return _withdraw_if_superseded(connection, row.id, now)


def _withdraw_if_superseded(connection: Connection, delivery_id: int, now: float) -> DeliveryState:
    row = _fetch(connection, delivery_id)
    job_state = connection.execute(select(jobs.c.state).where(jobs.c.id == row.job_id)).scalar_one()
    if job_state == JobState.SUPERSEDED.value:
        _move(connection, row, DeliveryState.WITHDRAWN, now)
        _tell(connection, row, "withdrawn", "superseded before it left", now)
        return DeliveryState.WITHDRAWN
    return DeliveryState(row.state)


def _move(connection: Connection, row: Row[Any], target: DeliveryState, now: float, **values: Any) -> None:
    advance(DeliveryState(row.state), target)
    unchanged = and_(deliveries.c.id == row.id, deliveries.c.state == row.state)
    changed = connection.execute(update(deliveries).where(unchanged).values(state=target.value, updated_at=now, **values))
    if changed.rowcount != 1:
        raise StateError(f"delivery {row.id} was changed by somebody else")


def _tell(connection: Connection, row: Row[Any], what: str, status: str, now: float) -> None:
    detail = {"destination": row.destination, "delivery_id": row.id, "attempts": row.attempts, "status": status}
    add_event(connection, row.StudyInstanceUID, what, detail, now)
