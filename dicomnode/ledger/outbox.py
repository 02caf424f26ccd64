"""Steps of deliveries inside a transaction that somebody else began. The verbs are in `deliveries`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, and_, select, update

from dicomnode.errors import StateError
from dicomnode.ledger.events import add_event
from dicomnode.ledger.figures import SEPARATOR, count
from dicomnode.ledger.schema import deliveries, jobs
from dicomnode.states import DeliveryState, JobState, advance

_UNSENT = (DeliveryState.DUE.value, DeliveryState.GIVEN_UP.value)


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
    row = fetch(connection, delivery_id)
    if owner is not None and (row.owner != owner or row.state != DeliveryState.SENDING.value):
        return False
    outcome = "failed_try" if state is DeliveryState.DUE else state.value
    count(connection, {("deliveries", f"{row.destination}{SEPARATOR}{outcome}"): 1})
    if state is DeliveryState.DUE:
        give_back(connection, row, now, status, next_attempt_at)
        return True
    failed = {"first_failed_at": row.first_failed_at or now} if state is DeliveryState.GIVEN_UP else {}
    sent = (
        {"sent_at": now, "confirm_at": confirm_at, "confirm_tries": 0} if state is DeliveryState.SENT else {}
    )
    move(connection, row, state, now, last_status=status, owner=None, lease_until=None, **failed, **sent)
    _add_event(
        connection, row, {DeliveryState.GIVEN_UP: "delivery-given-up"}.get(state, state.value), status, now
    )
    if state is DeliveryState.GIVEN_UP:
        _withdraw_if_superseded(connection, delivery_id, now)
    return True


def resend(connection: Connection, delivery_id: int, status: str, now: float, due_at: float) -> None:
    """SENT -> DUE at a time: the peer said that it has it and does not.

    What was superseded meanwhile is withdrawn instead.
    """
    row = fetch(connection, delivery_id)
    afresh = {"confirm_at": None, "TransactionUID": None, "resends": row.resends + 1}
    move(
        connection,
        row,
        DeliveryState.DUE,
        now,
        next_attempt_at=due_at,
        last_status=status,
        attempts=0,
        first_failed_at=None,
        **afresh,
    )
    _withdraw_if_superseded(connection, delivery_id, now)


def revive(connection: Connection, job_id: int, now: float) -> int:
    """Make a job's given-up and backed-off deliveries due now, as if never tried; return how many."""
    afresh: dict[str, Any] = {"attempts": 0, "next_attempt_at": now, "first_failed_at": None, "resends": 0}
    unsent = (
        select(deliveries)
        .where(deliveries.c.job_id == job_id, deliveries.c.state.in_(_UNSENT))
        .with_for_update()
    )
    rows = connection.execute(unsent).all()
    for row in rows:
        if row.state == DeliveryState.GIVEN_UP.value:
            move(connection, row, DeliveryState.DUE, now, **afresh)
        else:
            connection.execute(
                update(deliveries).where(deliveries.c.id == row.id).values(updated_at=now, **afresh)
            )
    return len(rows)


def is_sending(connection: Connection, job_id: int) -> bool:
    """Say whether a result of this job is being sent at this moment."""
    sending = select(deliveries.c.id).where(
        deliveries.c.job_id == job_id, deliveries.c.state == DeliveryState.SENDING.value
    )
    return connection.execute(sending.limit(1)).first() is not None


def withdraw_unsent(connection: Connection, job_id: int, now: float) -> int:
    """Withdraw what has not left yet; what is being sent is withdrawn when that send fails.

    Return how many.
    """
    unsent = (
        select(deliveries)
        .where(deliveries.c.job_id == job_id, deliveries.c.state.in_(_UNSENT))
        .with_for_update()
    )
    rows = connection.execute(unsent).all()
    for row in rows:
        move(connection, row, DeliveryState.WITHDRAWN, now)
        _add_event(connection, row, "withdrawn", "superseded before it left", now)
    return len(rows)


def give_back(
    connection: Connection, row: Row[Any], now: float, status: str, next_attempt_at: float | None = None
) -> DeliveryState:
    """SENDING -> DUE, tried again at `next_attempt_at`; -> WITHDRAWN when its job is superseded.

    Return the new state.
    """
    values: dict[str, Any] = {"owner": None, "lease_until": None, "last_status": status}
    if next_attempt_at is not None:
        values |= {"next_attempt_at": next_attempt_at, "first_failed_at": row.first_failed_at or now}
    move(connection, row, DeliveryState.DUE, now, **values)
    # An archive that is away for a day says the same every few minutes; once is enough.
    if status != row.last_status:
        _add_event(connection, row, "delivery-delayed", status, now)
    return _withdraw_if_superseded(connection, row.id, now)


def _withdraw_if_superseded(connection: Connection, delivery_id: int, now: float) -> DeliveryState:
    row = fetch(connection, delivery_id)
    job_state = connection.execute(select(jobs.c.state).where(jobs.c.id == row.job_id)).scalar_one()
    if job_state == JobState.SUPERSEDED.value:
        move(connection, row, DeliveryState.WITHDRAWN, now)
        _add_event(connection, row, "withdrawn", "superseded before it left", now)
        return DeliveryState.WITHDRAWN
    return DeliveryState(row.state)


def fetch(connection: Connection, delivery_id: int) -> Row[Any]:
    """Return the row of a delivery and hold it; `StateError` when there is none."""
    row = connection.execute(
        select(deliveries).where(deliveries.c.id == delivery_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise StateError(f"delivery {delivery_id} is not in the ledger")
    return row


def move(connection: Connection, row: Row[Any], target: DeliveryState, now: float, **values: Any) -> None:
    """Change a delivery from the state that `row` shows.

    `StateError` when the table forbids it or somebody was faster.
    """
    advance(DeliveryState(row.state), target)
    unchanged = and_(deliveries.c.id == row.id, deliveries.c.state == row.state)
    changed = connection.execute(
        update(deliveries).where(unchanged).values(state=target.value, updated_at=now, **values)
    )
    if changed.rowcount != 1:
        raise StateError(f"delivery {row.id} was changed by somebody else")


def _add_event(connection: Connection, row: Row[Any], event: str, status: str, now: float) -> None:
    detail = {
        "destination": row.destination,
        "delivery_id": row.id,
        "attempts": row.attempts,
        "status": status,
    }
    add_event(connection, row.StudyInstanceUID, event, detail, now)
