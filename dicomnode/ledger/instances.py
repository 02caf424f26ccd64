"""Instances: safe in the spool, listed here, read later by the work side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from dicomnode.errors import NodeError, RetryLater, StateError
from dicomnode.ledger import revisions
from dicomnode.ledger.database import Database
from dicomnode.ledger.encoding import (
    from_json,
    header_to_json,
    indexed_from_row,
    received_from_row,
    received_to_columns,
)
from dicomnode.ledger.events import add_event
from dicomnode.ledger.figures import count
from dicomnode.ledger.gather import Gather
from dicomnode.ledger.schema import PauseKind, Reading, instances, results, studies
from dicomnode.ledger.senders import (
    LONGEST_PAUSE_S,
    SHORTEST_PAUSE_S,
    Pause,
    had_open_association,
    note_pauses,
)
from dicomnode.records import (
    AddOutcome,
    HeaderReading,
    IndexedInstance,
    InstanceHeader,
    ReceivedInstance,
    SetAside,
)

_ADD = insert(instances)
# For every header; put together once, each takes a third of the time.
_NOTE_HEADER = update(instances).where(instances.c.id == bindparam("instance_id"))
_STUDY = select(studies).where(studies.c.StudyInstanceUID == bindparam("of_study")).with_for_update()
_NOTE_STUDY = update(studies).where(studies.c.StudyInstanceUID == bindparam("of_study"))


class Instances:
    """The part of the ledger that lists what came.

    Each verb is one transaction and may raise `RetryLater`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gather: Gather[ReceivedInstance, AddOutcome] = Gather(self.add_all)

    def add(self, instance: ReceivedInstance) -> AddOutcome:
        """List an instance that is safe in the spool.

        "new", "duplicate" (the same bytes) or "conflict" (same UID, other bytes).

        Threads that call at the same time share a transaction; what is wrong with one instance is raised to
        its own thread only.
        """
        return self._gather(instance)

    def add_all(self, group: Sequence[ReceivedInstance]) -> list[AddOutcome | Exception]:
        """List instances as `add` does, in one transaction where nothing is wrong with any of them.

        Returns what came of each, in their order: an outcome, or why it cannot be listed.
        """
        try:
            with self._database.write() as connection:
                connection.execute(_ADD, [_columns(instance, 0) for instance in group])
                count(connection, {("instances", "new"): len(group)})
            return ["new"] * len(group)
        except RetryLater:
            # The ledger is away for all of them.
            raise
        except Exception:  # noqa: BLE001  only the caller of the instance at fault hears of it
            # A UID is there already, or the database refuses a value.
            return [self._add_alone(instance) for instance in group]

    def _add_alone(self, instance: ReceivedInstance) -> AddOutcome | Exception:
        try:
            with self._database.write() as connection:
                outcome = _add_again(connection, instance)
                count(connection, {("instances", outcome): 1})
                return outcome
        except Exception as fault:  # noqa: BLE001  raised to the thread that called with it
            return fault

    def paths_below(self, folder: str) -> Iterator[str]:
        """Yield the spool paths of the listed instances in a folder.

        The folder is itself a path without a slash at its end.
        """
        with self._database.read() as connection:
            # The driver's own rows: of a million at the start of `receive`, SQLAlchemy's would cost as much
            # time again.
            cursor = connection.execute(select(instances.c.path).where(_is_below(folder))).cursor
            assert cursor is not None
            for (path,) in iter(cursor.fetchone, None):
                yield path

    def count_below(self, folder: str) -> int:
        """Return how many instances are listed in a folder, itself a path without a slash at its end."""
        with self._database.read() as connection:
            of_it = select(func.count()).select_from(instances).where(_is_below(folder))
            return int(connection.execute(of_it).scalar_one())

    def extent(self) -> tuple[int, int]:
        """Return how many instances are listed, and the largest number of one."""
        with self._database.read() as connection:
            count, newest_id = connection.execute(select(func.count(), func.max(instances.c.id))).one()
            return int(count), int(newest_id or 0)

    def unindexed(self, limit: int) -> list[tuple[int, ReceivedInstance]]:
        """Return instances whose header has not been read, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(instances)
                .where(instances.c.reading == Reading.NEW.value)
                .order_by(instances.c.id)
                .limit(limit)
            )
            return [(row.id, received_from_row(row)) for row in rows]

    def oldest_unread_at(self) -> float | None:
        """Return when the first of the instances came whose header has not been read."""
        with self._database.read() as connection:
            first = select(func.min(instances.c.received_at)).where(instances.c.reading == Reading.NEW.value)
            oldest_at: float | None = connection.execute(first).scalar_one()
            return oldest_at

    def record_header(
        self, instance_id: int, header: InstanceHeader, now: float, *, reopens: bool = True
    ) -> None:
        """Note what an instance is.

        Open its study's job, or supersede one that began without it and open the next revision.

        Other bytes for an instance that is there supersede when they carry another patient or order: that is
        a correction. Other conflicts, duplicates, our own results and a second reading never supersede; nor
        does anything with `reopens` false.
        """
        self.record_headers([HeaderReading(instance_id, header, reopens)], now)

    def record_headers(self, readings: Sequence[HeaderReading], now: float) -> None:
        """Note what instances are, as `record_header` does, all of them in one transaction.

        What is wrong with one of them is raised for all, and nothing is noted.
        """
        # Encoded before the lock: many-framed headers take their time, and reception waits for the lock.
        encoded = [header_to_json(reading.header) for reading in readings]
        with self._database.write() as connection:
            pauses: list[Pause] = []
            rows = _fetch_all(connection, [reading.instance_id for reading in readings])
            own_uids = _own_results(connection, [row.SOPInstanceUID for row in rows])
            for reading, header_json, row in zip(readings, encoded, rows, strict=True):
                is_own = row.SOPInstanceUID in own_uids
                pauses += _record_header(connection, reading, header_json, row, now, is_own=is_own)
            note_pauses(connection, pauses, now)

    def record_unreadable(
        self, instance_id: int, reason: str, now: float, *, StudyInstanceUID: str = ""
    ) -> None:
        """Set an instance aside: kept in the spool, left out of its study.

        A study of nothing else is answered too, so it gets a job.
        """
        with self._database.write() as connection:
            row = _fetch(connection, instance_id)
            values: dict[str, Any] = {
                "reading": Reading.UNREADABLE.value,
                "unreadable_because": reason,
                "indexed_at": now,
            }
            if StudyInstanceUID:
                _refresh_study(connection, StudyInstanceUID, row.received_at, grows=True)
                values["StudyInstanceUID"] = StudyInstanceUID
            connection.execute(update(instances).where(instances.c.id == instance_id).values(**values))
            if StudyInstanceUID:
                revisions.admit_content(connection, StudyInstanceUID, now, reopens=False)

    def set_aside(self, StudyInstanceUID: str) -> list[SetAside]:
        """Return the unreadable instances that say they are of a study, unless they came again whole."""
        with self._database.read() as connection:
            indexed_uids = select(instances.c.SOPInstanceUID).where(
                instances.c.reading == Reading.INDEXED.value
            )
            of_it = and_(
                instances.c.StudyInstanceUID == StudyInstanceUID,
                instances.c.reading == Reading.UNREADABLE.value,
                instances.c.SOPInstanceUID.not_in(
                    indexed_uids.where(instances.c.StudyInstanceUID == StudyInstanceUID)
                ),
            )
            rows = connection.execute(
                select(instances).where(of_it).order_by(instances.c.received_at, instances.c.id)
            )
            return [SetAside(row.path, row.received_at, row.unreadable_because) for row in rows]

    def of_study(self, StudyInstanceUID: str) -> list[IndexedInstance]:
        """Return the readable instances of a study in the order in which they came.

        Of several with one UID the first.
        """
        with self._database.read() as connection:
            of_it = and_(
                instances.c.StudyInstanceUID == StudyInstanceUID, instances.c.reading == Reading.INDEXED.value
            )
            rows = connection.execute(
                select(instances).where(of_it).order_by(instances.c.received_at, instances.c.id)
            ).all()
            return [indexed_from_row(row) for row in choose_used(rows)]

    def content_mark(self, StudyInstanceUID: str) -> tuple[int, int, float]:
        """Return what changes with the readable instances of a study: count, newest row and reading."""
        of_study = instances.c.StudyInstanceUID == StudyInstanceUID
        numbers = select(func.count(), func.max(instances.c.id), func.max(instances.c.indexed_at))
        with self._database.read() as connection:
            count, newest_id, read_at = connection.execute(numbers.where(of_study)).one()
            return int(count), int(newest_id or 0), float(read_at or 0.0)

    def last_received_at(self, StudyInstanceUID: str) -> float:
        """Return when the newest instance of a study came; `NodeError` when the study is not known."""
        with self._database.read() as connection:
            oldest_at: float | None = connection.execute(
                select(studies.c.last_received_at).where(studies.c.StudyInstanceUID == StudyInstanceUID)
            ).scalar_one_or_none()
            if oldest_at is None:
                raise NodeError(f"study {StudyInstanceUID} is not known")
            return oldest_at


def _is_below(folder: str) -> ColumnElement[bool]:
    # "0" follows "/" in ASCII: the range is what begins with the folder and a slash, and an index finds it.
    return and_(instances.c.path > f"{folder}/", instances.c.path < f"{folder}0")


def choose_used(rows: Sequence[Row[Any]]) -> list[Row[Any]]:
    """Return the rows of a study's instances that count, in their order.

    Of several versions with one SOP Instance UID one.

    The newest patient and order count, as the sender may have corrected them; of the versions that carry
    those, the first.
    """
    versions: dict[str, list[Row[Any]]] = {}
    for row in rows:
        if row.reading == Reading.INDEXED.value:
            versions.setdefault(row.SOPInstanceUID, []).append(row)
    used_ids = {_choose_version(of_one_uid).id for of_one_uid in versions.values()}
    return [row for row in rows if row.id in used_ids]


def _choose_version(rows: Sequence[Row[Any]]) -> Row[Any]:
    if len(rows) == 1:
        return rows[0]
    by_arrival = sorted(rows, key=lambda row: int(row.arrival))
    newest_mark = _mark(by_arrival[-1])
    return next(row for row in by_arrival if _mark(row) == newest_mark)


def _mark(row: Row[Any]) -> str:
    """Return the identity mark of an indexed row.

    Rows of before 0.5.0 have none, which counts as another patient.
    """
    return str(from_json(row.header).get("identity_mark", "")) if row.header else ""


def _add_again(connection: Connection, instance: ReceivedInstance) -> AddOutcome:
    """List an instance whose SOP Instance UID is there already.

    The same bytes once, other bytes beside the first.
    """
    rows = connection.execute(
        select(instances).where(instances.c.SOPInstanceUID == instance.SOPInstanceUID)
    ).all()
    for row in rows:
        if row.sha256 == instance.sha256:
            _note_again(connection, row, instance.received_at)
            _make_newest(connection, row, rows, instance.received_at)
            return "duplicate"
    arrival = max((row.arrival for row in rows), default=-1) + 1
    connection.execute(_ADD, _columns(instance, arrival))
    return "conflict" if arrival else "new"


def _note_again(connection: Connection, row: Row[Any], received_at: float) -> None:
    """Keep from retention what is acknowledged once more, and try again what failed.

    Our own results that an archive sends back do neither.
    """
    if row.reading == Reading.INDEXED.value:
        # Holds the row of the study, as whoever changes its jobs does.
        _refresh_study(connection, row.StudyInstanceUID, received_at, grows=False)
        revisions.note_resent(connection, row.StudyInstanceUID, received_at)
        if revisions.note_sent_again(connection, row.StudyInstanceUID, received_at):
            # The quiet time counts from the last of them.
            _refresh_study(connection, row.StudyInstanceUID, received_at, grows=True)
    elif row.reading == Reading.UNREADABLE.value and row.StudyInstanceUID is None:
        connection.execute(update(instances).where(instances.c.id == row.id).values(received_at=received_at))


def _make_newest(connection: Connection, row: Row[Any], rows: Sequence[Row[Any]], received_at: float) -> None:
    """Let a version count again that another patient had replaced: a correction was taken back.

    Its header is read anew, as of what just came.
    """
    of_study = [
        version_row
        for version_row in rows
        if version_row.reading == Reading.INDEXED.value
        and version_row.StudyInstanceUID == row.StudyInstanceUID
    ]
    if row.reading != Reading.INDEXED.value or _mark(_choose_version(of_study)) == _mark(row):
        return
    arrival = max(version_row.arrival for version_row in rows) + 1
    values = {"arrival": arrival, "reading": Reading.NEW.value, "received_at": received_at}
    connection.execute(update(instances).where(instances.c.id == row.id).values(**values))


def _columns(instance: ReceivedInstance, arrival: int) -> dict[str, Any]:
    return {**received_to_columns(instance), "arrival": arrival, "reading": Reading.NEW.value}


def _record_header(
    connection: Connection, reading: HeaderReading, encoded: str, row: Row[Any], now: float, *, is_own: bool
) -> list[Pause]:
    """Note one header; return the pause of its sender before it, where it belongs to the study's content."""
    header = reading.header
    before = _refresh_study(connection, header.StudyInstanceUID, row.received_at, grows=not is_own)
    again = (
        row.reading in (Reading.INDEXED.value, Reading.OWN_RESULT.value)
        and row.StudyInstanceUID == header.StudyInstanceUID
    )
    values = {
        "instance_id": reading.instance_id,
        "StudyInstanceUID": header.StudyInstanceUID,
        "SeriesInstanceUID": header.SeriesInstanceUID,
        "header": encoded,
        "reading": (Reading.OWN_RESULT if is_own else Reading.INDEXED).value,
        "unreadable_because": None,
        "indexed_at": now,
    }
    connection.execute(_NOTE_HEADER, values)
    if again:
        return []
    origin = {"SOPInstanceUID": row.SOPInstanceUID, "calling_ae": row.calling_ae, "peer_host": row.peer_host}
    if is_own:
        # An archive that routes our own results back to us must not start the study again.
        add_event(connection, header.StudyInstanceUID, "own-result", origin, now)
        return []
    earlier = _earlier_version(connection, row, header.StudyInstanceUID) if row.arrival else None
    corrects = earlier is not None and _mark(earlier) != header.identity_mark
    if row.arrival:
        add_event(connection, header.StudyInstanceUID, "corrected" if corrects else "conflict", origin, now)
    if earlier is not None and not corrects:
        revisions.note_sent_again(connection, header.StudyInstanceUID, now)
        return []
    reopens = reading.reopens and (reading.may_matter or _changes_identity(connection, header))
    superseded = revisions.admit_content(connection, header.StudyInstanceUID, now, reopens)
    if before is None:
        return []
    return _pause_before(connection, row, header, before, superseded)


def _changes_identity(connection: Connection, header: InstanceHeader) -> bool:
    """Return whether the first readable instance of the study carries another patient or order."""
    of_study = and_(
        instances.c.StudyInstanceUID == header.StudyInstanceUID,
        instances.c.SOPInstanceUID != header.SOPInstanceUID,
        instances.c.reading == Reading.INDEXED.value,
    )
    first = connection.execute(select(instances).where(of_study).order_by(instances.c.id).limit(1)).first()
    return first is None or _mark(first) != header.identity_mark


def _pause_before(
    connection: Connection, row: Row[Any], header: InstanceHeader, before: float, superseded: Row[Any] | None
) -> list[Pause]:
    """Return the pauses that a sender's image ends: what they were between, and what came of it."""
    pause_s = row.received_at - before
    if not SHORTEST_PAUSE_S <= pause_s <= LONGEST_PAUSE_S:
        return []
    of_series = and_(
        instances.c.StudyInstanceUID == header.StudyInstanceUID,
        instances.c.SeriesInstanceUID == header.SeriesInstanceUID,
        instances.c.id != row.id,
    )
    series_goes_on = connection.execute(select(instances.c.id).where(of_series).limit(1)).first() is not None
    kinds = [PauseKind.WITHIN_SERIES if series_goes_on else PauseKind.BETWEEN_SERIES]
    if had_open_association(connection, row.calling_ae, row.peer_host, before, row.received_at):
        kinds = [PauseKind.ASSOCIATION_OPEN]
    if superseded is not None:
        roles = from_json(superseded.detail).get("evidence", {}).get("roles", {})
        kinds.append(PauseKind.TOO_LATE_FOR_BOTH if len(roles) > 1 else PauseKind.TOO_LATE_FOR_ONE)
    return [Pause(row.calling_ae, row.peer_host, kind, pause_s) for kind in kinds]


def _fetch(connection: Connection, instance_id: int) -> Row[Any]:
    row = connection.execute(
        select(instances).where(instances.c.id == instance_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise StateError(f"instance {instance_id} is not in the ledger")
    return row


def _fetch_all(connection: Connection, instance_ids: Sequence[int]) -> list[Row[Any]]:
    """Return the rows of instances, in the order of their numbers here."""
    these = select(instances).where(instances.c.id.in_(instance_ids)).with_for_update()
    rows = {row.id: row for row in connection.execute(these)}
    for instance_id in instance_ids:
        if instance_id not in rows:
            raise StateError(f"instance {instance_id} is not in the ledger")
    return [rows[instance_id] for instance_id in instance_ids]


def _own_results(connection: Connection, SOPInstanceUIDs: Sequence[str]) -> set[str]:
    """Return which of these are results of ours."""
    ours = select(results.c.SOPInstanceUID).where(results.c.SOPInstanceUID.in_(SOPInstanceUIDs))
    return set(connection.execute(ours).scalars())


def _earlier_version(connection: Connection, row: Row[Any], StudyInstanceUID: str) -> Row[Any] | None:
    """Return the version of an instance that counted before this one came; None when its study had none."""
    earlier = and_(
        instances.c.SOPInstanceUID == row.SOPInstanceUID,
        instances.c.StudyInstanceUID == StudyInstanceUID,
        instances.c.reading == Reading.INDEXED.value,
        instances.c.arrival < row.arrival,
    )
    rows = connection.execute(select(instances).where(earlier)).all()
    return _choose_version(rows) if rows else None


def _refresh_study(
    connection: Connection, StudyInstanceUID: str, received_at: float, grows: bool
) -> float | None:
    """Note that something of a study came; return when the newest before it came, None for the first."""
    of_study = {"of_study": StudyInstanceUID}
    row = connection.execute(_STUDY, of_study).one_or_none()
    if row is None:
        values = {
            "StudyInstanceUID": StudyInstanceUID,
            "first_received_at": received_at,
            "last_received_at": received_at,
        }
        try:
            with connection.begin_nested():
                connection.execute(insert(studies).values(**values))
            return None
        except IntegrityError:
            # Only where writers do not wait for each other (PostgreSQL): another one was first.
            row = connection.execute(_STUDY, of_study).one()
    newest_before = float(row.last_received_at)
    if not grows:
        return newest_before
    first, last = min(row.first_received_at, received_at), max(row.last_received_at, received_at)
    if (first, last) != (row.first_received_at, row.last_received_at):
        connection.execute(_NOTE_STUDY, of_study | {"first_received_at": first, "last_received_at": last})
    return newest_before
