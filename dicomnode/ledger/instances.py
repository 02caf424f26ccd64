"""Instances: safe in the spool, listed here, read later by the work side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from dicomnode.errors import NodeError, StateError
from dicomnode.ledger import jobs, retention
from dicomnode.ledger.encoding import indexed_from_row, received_from_row, received_to_columns
from dicomnode.ledger.events import add_event
from dicomnode.ledger.schema import Reading, instances, results, studies
from dicomnode.records import AddOutcome, IndexedInstance, InstanceHeader, ReceivedInstance, SetAside

_ADD = insert(instances)


def add_first(connection: Connection, group: Sequence[ReceivedInstance]) -> None:
    """List instances as the first with their SOP Instance UIDs; `IntegrityError` when one of them is not."""
    connection.execute(_ADD, [_columns(instance, 0) for instance in group])


def add_again(connection: Connection, instance: ReceivedInstance) -> AddOutcome:
    """List an instance whose SOP Instance UID is there already: the same bytes once, other bytes beside the first."""
    rows = connection.execute(select(instances).where(instances.c.SOPInstanceUID == instance.SOPInstanceUID)).all()
    for row in rows:
        if row.sha256 == instance.sha256:
            _note_again(connection, row, instance.received_at)
            return "duplicate"
    arrival = max((row.arrival for row in rows), default=-1) + 1
    _add(connection, instance, arrival)
    return "conflict" if arrival else "new"


def paths(connection: Connection) -> set[str]:
    """Return the spool paths of every listed instance."""
    return set(connection.execute(select(instances.c.path)).scalars())


def unindexed(connection: Connection, limit: int) -> list[tuple[int, ReceivedInstance]]:
    """Return instances whose header has not been read, oldest first."""
    rows = connection.execute(select(instances).where(instances.c.reading == Reading.NEW.value).order_by(instances.c.id).limit(limit))
    return [(row.id, received_from_row(row)) for row in rows]


def oldest_unread_at(connection: Connection) -> float | None:
    """Return when the first of the instances came whose header has not been read."""
    first = select(func.min(instances.c.received_at)).where(instances.c.reading == Reading.NEW.value)
    at: float | None = connection.execute(first).scalar_one()
    return at


def record_header(connection: Connection, instance_id: int, header: InstanceHeader, encoded: str, now: float, reopens: bool) -> None:
    """Note what an instance is, and make sure that its study will be answered. Again with the same header changes nothing.

    `encoded` is the header as JSON text.
    """
    row = _fetch(connection, instance_id)
    own = connection.execute(select(results.c.id).where(results.c.SOPInstanceUID == row.SOPInstanceUID).limit(1)).first() is not None
    _refresh_study(connection, header.StudyInstanceUID, row.received_at, grows=not own)
    values = {"StudyInstanceUID": header.StudyInstanceUID, "SeriesInstanceUID": header.SeriesInstanceUID, "header": encoded}
    reading = Reading.OWN_RESULT if own else Reading.INDEXED
    noted = update(instances).where(instances.c.id == instance_id)
    connection.execute(noted.values(reading=reading.value, unreadable_because=None, indexed_at=now, **values))
    if row.reading in (Reading.INDEXED.value, Reading.OWN_RESULT.value) and row.StudyInstanceUID == header.StudyInstanceUID:
        return
    seen = {"SOPInstanceUID": row.SOPInstanceUID, "calling_ae": row.calling_ae, "peer_host": row.peer_host}
    if own:
        # An archive that routes our own results back to us must not start the study again.
        add_event(connection, header.StudyInstanceUID, "own-result", seen, now)
        return
    if row.arrival:
        add_event(connection, header.StudyInstanceUID, "conflict", seen, now)
        if _has_earlier(connection, row, header.StudyInstanceUID):
            jobs.note_sent_again(connection, header.StudyInstanceUID, now)
            return
    jobs.admit_content(connection, header.StudyInstanceUID, now, reopens)


def record_unreadable(connection: Connection, instance_id: int, reason: str, now: float, StudyInstanceUID: str) -> None:
    """Set an instance aside: kept in the spool, left out of its study. A study of nothing else is answered too, so it gets a job."""
    row = _fetch(connection, instance_id)
    values: dict[str, Any] = {"reading": Reading.UNREADABLE.value, "unreadable_because": reason, "indexed_at": now}
    if StudyInstanceUID:
        _refresh_study(connection, StudyInstanceUID, row.received_at, grows=True)
        values["StudyInstanceUID"] = StudyInstanceUID
    connection.execute(update(instances).where(instances.c.id == instance_id).values(**values))
    if StudyInstanceUID:
        jobs.admit_content(connection, StudyInstanceUID, now, reopens=False)


def set_aside(connection: Connection, StudyInstanceUID: str) -> list[SetAside]:
    """Return the unreadable instances that say they are of a study, unless they came again whole."""
    whole = select(instances.c.SOPInstanceUID).where(instances.c.reading == Reading.INDEXED.value)
    of_it = and_(
        instances.c.StudyInstanceUID == StudyInstanceUID,
        instances.c.reading == Reading.UNREADABLE.value,
        instances.c.SOPInstanceUID.not_in(whole.where(instances.c.StudyInstanceUID == StudyInstanceUID)),
    )
    rows = connection.execute(select(instances).where(of_it).order_by(instances.c.received_at, instances.c.id))
    return [SetAside(row.path, row.received_at, row.unreadable_because) for row in rows]


def of_study(connection: Connection, StudyInstanceUID: str) -> list[IndexedInstance]:
    """Return the readable instances of a study in the order in which they came; of several with one UID the first."""
    of_it = and_(instances.c.StudyInstanceUID == StudyInstanceUID, instances.c.reading == Reading.INDEXED.value)
    rows = connection.execute(select(instances).where(of_it).order_by(instances.c.received_at, instances.c.id)).all()
    first: dict[str, int] = {}
    for row in rows:
        first[row.SOPInstanceUID] = min(row.arrival, first.get(row.SOPInstanceUID, row.arrival))
    return [indexed_from_row(row) for row in rows if row.arrival == first[row.SOPInstanceUID]]


def last_received_at(connection: Connection, StudyInstanceUID: str) -> float:
    """Return when the newest instance of a study came; `NodeError` when the study is not known."""
    at: float | None = connection.execute(
        select(studies.c.last_received_at).where(studies.c.StudyInstanceUID == StudyInstanceUID)
    ).scalar_one_or_none()
    if at is None:
        raise NodeError(f"study {StudyInstanceUID} is not known")
    return at


def _add(connection: Connection, instance: ReceivedInstance, arrival: int) -> None:
    connection.execute(_ADD, _columns(instance, arrival))


def _note_again(connection: Connection, row: Row[Any], received_at: float) -> None:
    """Keep from retention what is acknowledged once more, and try again what failed. Our own results that an archive sends back do neither."""
    if row.reading == Reading.INDEXED.value:
        # Holds the row of the study, as whoever changes its jobs does.
        _refresh_study(connection, row.StudyInstanceUID, received_at, grows=False)
        retention.note_resent(connection, row.StudyInstanceUID, received_at)
        if jobs.note_sent_again(connection, row.StudyInstanceUID, received_at):
            # The quiet time counts from the last of them.
            _refresh_study(connection, row.StudyInstanceUID, received_at, grows=True)
    elif row.reading == Reading.UNREADABLE.value and row.StudyInstanceUID is None:
        connection.execute(update(instances).where(instances.c.id == row.id).values(received_at=received_at))


def _columns(instance: ReceivedInstance, arrival: int) -> dict[str, Any]:
    return {**received_to_columns(instance), "arrival": arrival, "reading": Reading.NEW.value}


def _fetch(connection: Connection, instance_id: int) -> Row[Any]:
    row = connection.execute(select(instances).where(instances.c.id == instance_id).with_for_update()).one_or_none()
    if row is None:
        raise StateError(f"instance {instance_id} is not in the ledger")
    return row


def _has_earlier(connection: Connection, row: Row[Any], StudyInstanceUID: str) -> bool:
    earlier = and_(
        instances.c.SOPInstanceUID == row.SOPInstanceUID,
        instances.c.StudyInstanceUID == StudyInstanceUID,
        instances.c.reading == Reading.INDEXED.value,
        instances.c.arrival < row.arrival,
    )
    return connection.execute(select(instances.c.id).where(earlier).limit(1)).first() is not None


def _refresh_study(connection: Connection, StudyInstanceUID: str, received_at: float, grows: bool) -> None:
    this = studies.c.StudyInstanceUID == StudyInstanceUID
    row = connection.execute(select(studies).where(this).with_for_update()).one_or_none()
    if row is None:
        values = {"StudyInstanceUID": StudyInstanceUID, "first_received_at": received_at, "last_received_at": received_at}
        try:
            with connection.begin_nested():
                connection.execute(insert(studies).values(**values))
            return
        except IntegrityError:
            # Only where writers do not wait for each other (PostgreSQL): another one was first.
            row = connection.execute(select(studies).where(this).with_for_update()).one()
    if not grows:
        return
    first, last = min(row.first_received_at, received_at), max(row.last_received_at, received_at)
    if (first, last) != (row.first_received_at, row.last_received_at):
        connection.execute(update(studies).where(this).values(first_received_at=first, last_received_at=last))
