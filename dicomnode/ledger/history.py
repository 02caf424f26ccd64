"""What can be shown: counts and lines for `status`, the whole story of one study for `why`.

Reads only; frozen records come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Select, and_, func, select

from dicomnode.ledger.database import Database
from dicomnode.ledger.encoding import from_json, header_from_json
from dicomnode.ledger.events import add_event
from dicomnode.ledger.instances import choose_used
from dicomnode.ledger.schema import (
    HAS_VERSIONS,
    NOT_INDEXED,
    Reading,
    deliveries,
    events,
    instances,
    jobs,
    results,
    studies,
)
from dicomnode.ledger.shown import (
    DeliveryLine,
    EventLine,
    FailingLine,
    Health,
    InstanceLine,
    JobLine,
    JobStory,
    ResultLine,
    SeriesLine,
    StudyHistory,
    StudyLine,
    TransferLine,
)
from dicomnode.states import DeliveryState, JobState

# Instances of one sender with a longer pause between them are shown as two transfers.
_PAUSE_S = 60.0
_Line = TypeVar("_Line")
_WITHOUT_STUDY = and_(
    NOT_INDEXED, instances.c.reading == Reading.UNREADABLE.value, instances.c.StudyInstanceUID.is_(None)
)


class History:
    """The part of the ledger that is shown; each verb is one transaction and may raise `RetryLater`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def health(self) -> Health:
        """Count jobs and deliveries per state and instances per reading.

        The result also says since when the oldest of each kind waits.
        """
        oldest_waiting = select(func.min(jobs.c.created_at)).where(jobs.c.state == JobState.WAITING.value)
        oldest_ready = select(func.min(jobs.c.not_before)).where(jobs.c.state == JobState.READY.value)
        undelivered = select(func.min(jobs.c.updated_at)).where(jobs.c.state == JobState.ENCODED.value)
        with self._database.read() as connection:
            per_job, per_delivery = _count(connection, jobs.c.state), _count(connection, deliveries.c.state)
            return Health(
                jobs={state.value: per_job.get(state.value, 0) for state in JobState},
                deliveries={state.value: per_delivery.get(state.value, 0) for state in DeliveryState},
                destinations=_per_destination(connection),
                instances=_per_reading(connection),
                without_study=connection.execute(select(func.count()).where(_WITHOUT_STUDY)).scalar_one(),
                conflicts=connection.execute(
                    select(func.count()).select_from(instances).where(HAS_VERSIONS)
                ).scalar_one(),
                studies=connection.execute(select(func.count()).select_from(studies)).scalar_one(),
                oldest_waiting_since=connection.execute(oldest_waiting).scalar_one(),
                oldest_ready_since=connection.execute(oldest_ready).scalar_one(),
                oldest_undelivered_since=connection.execute(undelivered).scalar_one(),
            )

    def studies(self, limit: int = 100) -> tuple[StudyLine, ...]:
        """Return one line per study, the last received first.

        How much came, where its newest job stands, what was delivered.
        """
        lately = (
            select(studies)
            .order_by(studies.c.last_received_at.desc(), studies.c.StudyInstanceUID)
            .limit(limit)
        )
        with self._database.read() as connection:
            return study_lines(connection, lately)

    def failing(self) -> tuple[FailingLine, ...]:
        """Return the destinations of which something that is due has failed, by name."""
        name = deliveries.c.destination
        waiting = and_(
            deliveries.c.state.in_((DeliveryState.DUE.value, DeliveryState.SENDING.value)),
            deliveries.c.first_failed_at.is_not(None),
        )
        failing = select(name, func.min(deliveries.c.first_failed_at), func.count()).where(waiting)
        with self._database.read() as connection:
            rows = connection.execute(failing.group_by(name).order_by(name)).all()
            names = [row[0] for row in rows]
            sent = select(name, func.max(deliveries.c.sent_at)).where(name.in_(names)).group_by(name)
            sent_at = {row[0]: row[1] for row in connection.execute(sent)} if names else {}
            return tuple(FailingLine(row[0], row[1], row[2], sent_at.get(row[0])) for row in rows)

    def without_study(self, limit: int = 1000) -> tuple[InstanceLine, ...]:
        """Return the instances that can be of no study, the last received first.

        Acknowledged, kept, and answered by nothing else.
        """
        newest = (
            select(instances)
            .where(_WITHOUT_STUDY)
            .order_by(instances.c.received_at.desc(), instances.c.id.desc())
            .limit(limit)
        )
        with self._database.read() as connection:
            return tuple(_instance_line(row) for row in connection.execute(newest))

    def studies_ending_in(self, text: str, limit: int = 10) -> tuple[str, ...]:
        """Return the Study Instance UIDs that end in a text, or the one that is that text."""
        uid = studies.c.StudyInstanceUID
        with self._database.read() as connection:
            if connection.execute(select(uid).where(uid == text)).first() is not None:
                return (text,)
            ending = select(uid).where(uid.endswith(text, autoescape=True)).order_by(uid).limit(limit)
            return tuple(connection.execute(ending).scalars())

    def instances_ending_in(self, text: str, limit: int = 10) -> tuple[InstanceLine, ...]:
        """Return the instances of no study whose SOP Instance UID ends in a text.

        A whole UID gives the instance of that UID.
        """
        uid = instances.c.SOPInstanceUID
        study_uids = (
            select(instances)
            .where(_WITHOUT_STUDY)
            .order_by(instances.c.received_at, instances.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            rows = connection.execute(study_uids.where(uid == text)).all()
            return tuple(
                _instance_line(row)
                for row in rows or connection.execute(study_uids.where(uid.endswith(text, autoescape=True)))
            )

    def of_study(self, StudyInstanceUID: str) -> StudyHistory | None:
        """Return everything that is known of one study; None when it is not known."""
        of_it = select(instances).where(instances.c.StudyInstanceUID == StudyInstanceUID)
        with self._database.read() as connection:
            study = connection.execute(
                select(studies).where(studies.c.StudyInstanceUID == StudyInstanceUID)
            ).one_or_none()
            if study is None:
                return None
            rows = connection.execute(of_it.order_by(instances.c.received_at, instances.c.id)).all()
            return StudyHistory(
                StudyInstanceUID=StudyInstanceUID,
                first_received_at=study.first_received_at,
                last_received_at=study.last_received_at,
                received=_transfers(rows),
                series=_series([row for row in rows if row.reading != Reading.UNREADABLE.value]),
                conflicts=tuple(_instance_line(row) for row in rows if row.arrival),
                own_results_received=sum(row.reading == Reading.OWN_RESULT.value for row in rows),
                unreadable=tuple(
                    _instance_line(row) for row in rows if row.reading == Reading.UNREADABLE.value
                ),
                jobs=_jobs(connection, StudyInstanceUID),
                deliveries=_deliveries(connection, StudyInstanceUID),
                events=_events(connection, StudyInstanceUID),
            )

    def segmentations(self, besides: str, limit: int) -> list[tuple[str, str]]:
        """Return (study, spool path) of the newest segmentations of other studies, one of each study."""
        result_paths = select(jobs.c.StudyInstanceUID, results.c.path).join(
            jobs, jobs.c.id == results.c.job_id
        )
        other_segmentations = (
            result_paths.where(results.c.kind == "seg", jobs.c.StudyInstanceUID != besides)
            .order_by(results.c.id.desc())
            .limit(limit)
        )
        newest: dict[str, str] = {}
        with self._database.read() as connection:
            for study, path in connection.execute(other_segmentations):
                newest.setdefault(study, path)
        return list(newest.items())

    def add_event(self, StudyInstanceUID: str, event: str, detail: Mapping[str, Any], now: float) -> None:
        """Append to a study's diary."""
        with self._database.write() as connection:
            add_event(connection, StudyInstanceUID, event, detail, now)


def study_lines(connection: Connection, query: Select[Any]) -> tuple[StudyLine, ...]:
    """Return the lines of the studies that a query of `studies` selects, in its order."""
    # As a subquery, not as a list of values: SQLite takes some thousand values only.
    study_uids = select(query.subquery().c.StudyInstanceUID)
    job_of = _newest_jobs(connection, study_uids)
    counts, delivered = _counts(connection, study_uids), _delivered(connection, study_uids)
    return tuple(
        _study_line(
            row, job_of.get(row.StudyInstanceUID), counts.get(row.StudyInstanceUID, (0, 0)), delivered
        )
        for row in connection.execute(query)
    )


def _count(connection: Connection, column: Any) -> dict[str, int]:
    counted = select(column, func.count()).group_by(column)
    return {row[0]: row[1] for row in connection.execute(counted)}


def _per_destination(connection: Connection) -> dict[str, dict[str, int]]:
    counted = select(deliveries.c.destination, deliveries.c.state, func.count())
    destinations: dict[str, dict[str, int]] = {}
    for name, state, count in connection.execute(
        counted.group_by(deliveries.c.destination, deliveries.c.state)
    ):
        destinations.setdefault(name, {})[state] = count
    return destinations


def _per_reading(connection: Connection) -> dict[str, int]:
    """Count instances; the few that are not plainly indexed have an index of their own.

    A million instances therefore cost little.
    """
    reading = instances.c.reading
    counted = select(reading, func.count()).where(NOT_INDEXED).group_by(reading)
    counts = {row[0]: row[1] for row in connection.execute(counted)}
    total = connection.execute(select(func.count()).select_from(instances)).scalar_one()
    counts[Reading.INDEXED.value] = total - sum(counts.values())
    return {reading.value: counts.get(reading.value, 0) for reading in Reading}


def _newest_jobs(connection: Connection, study_uids: Any) -> dict[str, Row[Any]]:
    newest = select(jobs.c.StudyInstanceUID, func.max(jobs.c.revision).label("revision")).where(
        jobs.c.StudyInstanceUID.in_(study_uids)
    )
    revision = newest.group_by(jobs.c.StudyInstanceUID).subquery()
    of_revision = and_(
        jobs.c.StudyInstanceUID == revision.c.StudyInstanceUID, jobs.c.revision == revision.c.revision
    )
    return {job.StudyInstanceUID: job for job in connection.execute(select(jobs).join(revision, of_revision))}


def _counts(connection: Connection, study_uids: Any) -> dict[str, tuple[int, int]]:
    """Count a study's instances and series; several versions of one SOP Instance UID are one instance."""
    study, uid, series = (
        instances.c.StudyInstanceUID,
        instances.c.SOPInstanceUID,
        instances.c.SeriesInstanceUID,
    )
    readable = and_(study.in_(study_uids), instances.c.reading == Reading.INDEXED.value)
    counted = (
        select(study, func.count(uid.distinct()), func.count(series.distinct()))
        .where(readable)
        .group_by(study)
    )
    return {row[0]: (row[1], row[2]) for row in connection.execute(counted)}


def _delivered(connection: Connection, study_uids: Any) -> dict[int, dict[str, int]]:
    counted = select(deliveries.c.job_id, deliveries.c.state, func.count()).where(
        deliveries.c.StudyInstanceUID.in_(study_uids)
    )
    delivered: dict[int, dict[str, int]] = {}
    for job_id, state, count in connection.execute(counted.group_by(deliveries.c.job_id, deliveries.c.state)):
        delivered.setdefault(job_id, {})[state] = count
    return delivered


def _study_line(
    study: Row[Any], job: Row[Any] | None, counts: tuple[int, int], delivered: Mapping[int, Mapping[str, int]]
) -> StudyLine:
    return StudyLine(
        StudyInstanceUID=study.StudyInstanceUID,
        first_received_at=study.first_received_at,
        last_received_at=study.last_received_at,
        instances=counts[0],
        series=counts[1],
        job=None if job is None else _line(JobLine, job),
        deliveries={} if job is None else delivered.get(job.id, {}),
    )


def _transfers(rows: Sequence[Row[Any]]) -> tuple[TransferLine, ...]:
    """Group what came by sender; a pause ends a transfer."""
    transfers: list[list[Row[Any]]] = []
    open_transfer: dict[tuple[str, str], list[Row[Any]]] = {}
    for row in rows:
        sender = (row.calling_ae, row.peer_host)
        current = open_transfer.get(sender)
        if current is None or row.received_at - current[-1].received_at > _PAUSE_S:
            current = open_transfer[sender] = []
            transfers.append(current)
        current.append(row)
    return tuple(
        TransferLine(
            rows[0].calling_ae, rows[0].peer_host, rows[0].received_at, rows[-1].received_at, len(rows)
        )
        for rows in transfers
    )


def _series(rows: Sequence[Row[Any]]) -> tuple[SeriesLine, ...]:
    used_ids = {row.id for row in choose_used(rows)}
    of_series: dict[str, list[Row[Any]]] = {}
    for row in rows:
        of_series.setdefault(row.SeriesInstanceUID, []).append(row)
    lines = []
    for SeriesInstanceUID, members in of_series.items():
        header = header_from_json(members[0].header)
        # Our own results that came back are of no version: they are counted as they are.
        counted = sum(row.id in used_ids or row.reading == Reading.OWN_RESULT.value for row in members)
        lines.append(
            SeriesLine(
                SeriesInstanceUID=SeriesInstanceUID,
                SeriesNumber=header.SeriesNumber,
                Modality=header.Modality,
                SeriesDescription=header.SeriesDescription,
                ProtocolName=header.ProtocolName,
                instances=counted,
                conflicts=len(members) - counted,
                size_bytes=sum(row.size_bytes for row in members),
            )
        )
    return tuple(
        sorted(
            lines,
            key=lambda line: (line.SeriesNumber is None, line.SeriesNumber or 0, line.SeriesInstanceUID),
        )
    )


def _jobs(connection: Connection, StudyInstanceUID: str) -> tuple[JobStory, ...]:
    of_study = select(jobs).where(jobs.c.StudyInstanceUID == StudyInstanceUID).order_by(jobs.c.revision)
    files = (
        select(results)
        .join(jobs, jobs.c.id == results.c.job_id)
        .where(jobs.c.StudyInstanceUID == StudyInstanceUID)
    )
    of_job: dict[int, list[ResultLine]] = {}
    for file in connection.execute(files.order_by(results.c.id)):
        of_job.setdefault(file.job_id, []).append(_line(ResultLine, file))
    return tuple(
        _line(JobStory, row, detail=from_json(row.detail), results=tuple(of_job.get(row.id, ())))
        for row in connection.execute(of_study)
    )


def _deliveries(connection: Connection, StudyInstanceUID: str) -> tuple[DeliveryLine, ...]:
    joined = select(deliveries, results.c.kind, results.c.SOPInstanceUID, results.c.path).join(
        results, results.c.id == deliveries.c.result_id
    )
    of_study = joined.where(deliveries.c.StudyInstanceUID == StudyInstanceUID).order_by(deliveries.c.id)
    return tuple(_line(DeliveryLine, row) for row in connection.execute(of_study))


def _events(connection: Connection, StudyInstanceUID: str) -> tuple[EventLine, ...]:
    of_study = select(events).where(events.c.StudyInstanceUID == StudyInstanceUID).order_by(events.c.id)
    return tuple(EventLine(row.at, row.what, from_json(row.detail)) for row in connection.execute(of_study))


def _instance_line(row: Row[Any]) -> InstanceLine:
    return _line(InstanceLine, row, reason=row.unreadable_because or "")


def _line(kind: type[_Line], row: Row[Any], **values: Any) -> _Line:
    """Make a record of the columns that carry its fields' names."""
    names = (field.name for field in fields(kind) if field.name not in values)  # type: ignore[arg-type]
    return kind(**{name: getattr(row, name) for name in names}, **values)
