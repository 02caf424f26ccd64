"""What can be shown: counts for `status`, the whole story of one study for `why`. Reads only; plain values, ready for JSON."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, and_, func, or_, select

from dicomnode.ledger.encoding import from_json, header_from_json
from dicomnode.ledger.schema import Reading, deliveries, events, instances, jobs, results, studies
from dicomnode.states import DeliveryState, JobState

# Instances of one sender with a longer pause between them are shown as two transfers.
_PAUSE_S = 60.0

_STUDY_SHOWN = ("StudyInstanceUID", "first_received_at", "last_received_at")
_JOB_SHOWN = ("id", "revision", "state", "attempts", "reason", "outcome", "owner", "lease_until", "not_before", "created_at", "updated_at")
_RESULT_SHOWN = ("kind", "path", "sha256", "SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "created_at")
_DELIVERY_SHOWN = (
    "id",
    "job_id",
    "destination",
    "state",
    "attempts",
    "next_attempt_at",
    "first_failed_at",
    "last_status",
    "updated_at",
    "sent_at",
    "confirm_at",
    "confirm_tries",
    "resends",
)
_ASIDE_SHOWN = ("SOPInstanceUID", "SeriesInstanceUID", "path", "calling_ae", "peer_host", "received_at")


def health(connection: Connection) -> dict[str, Any]:
    """Count jobs and deliveries per state and instances per reading, and say since when the oldest of each kind waits."""
    oldest_waiting = select(func.min(jobs.c.created_at)).where(jobs.c.state == JobState.WAITING.value)
    oldest_ready = select(func.min(jobs.c.not_before)).where(jobs.c.state == JobState.READY.value)
    undelivered = select(func.min(jobs.c.updated_at)).where(jobs.c.state == JobState.ENCODED.value)
    per_destination = select(deliveries.c.destination, deliveries.c.state, func.count()).group_by(
        deliveries.c.destination, deliveries.c.state
    )
    destinations: dict[str, dict[str, int]] = {}
    for name, state, count in connection.execute(per_destination):
        destinations.setdefault(name, {})[state] = count
    per_job, per_delivery = _count(connection, jobs.c.state), _count(connection, deliveries.c.state)
    per_reading = _count(connection, instances.c.reading)
    return {
        "jobs": {state.value: per_job.get(state.value, 0) for state in JobState},
        "deliveries": {state.value: per_delivery.get(state.value, 0) for state in DeliveryState},
        "destinations": destinations,
        "instances": {reading.value: per_reading.get(reading.value, 0) for reading in Reading},
        "conflicts": connection.execute(select(func.count()).select_from(instances).where(instances.c.arrival > 0)).scalar_one(),
        "studies": connection.execute(select(func.count()).select_from(studies)).scalar_one(),
        "oldest_waiting_since": connection.execute(oldest_waiting).scalar_one(),
        "oldest_ready_since": connection.execute(oldest_ready).scalar_one(),
        "oldest_undelivered_since": connection.execute(undelivered).scalar_one(),
    }


def newest_studies(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """Return one line per study, the last received first: how much came, where its newest job stands, what was delivered."""
    lately = select(studies).order_by(studies.c.last_received_at.desc(), studies.c.StudyInstanceUID).limit(limit)
    # As a subquery, not as a list of values: SQLite takes some thousand values only.
    chosen = select(lately.subquery().c.StudyInstanceUID)
    newest = select(jobs.c.StudyInstanceUID, func.max(jobs.c.revision).label("revision")).group_by(jobs.c.StudyInstanceUID).subquery()
    of_newest = and_(jobs.c.StudyInstanceUID == newest.c.StudyInstanceUID, jobs.c.revision == newest.c.revision)
    job_rows = connection.execute(select(jobs).join(newest, of_newest).where(jobs.c.StudyInstanceUID.in_(chosen)))
    job_of = {job.StudyInstanceUID: job for job in job_rows}
    readable = and_(instances.c.StudyInstanceUID.in_(chosen), instances.c.reading == Reading.INDEXED.value)
    counted = select(instances.c.StudyInstanceUID, func.count(), func.count(instances.c.SeriesInstanceUID.distinct())).where(readable)
    counts = {row[0]: (row[1], row[2]) for row in connection.execute(counted.group_by(instances.c.StudyInstanceUID))}
    sent = select(deliveries.c.job_id, deliveries.c.state, func.count()).where(deliveries.c.StudyInstanceUID.in_(chosen))
    delivered: dict[int, dict[str, int]] = {}
    for job_id, state, count in connection.execute(sent.group_by(deliveries.c.job_id, deliveries.c.state)):
        delivered.setdefault(job_id, {})[state] = count
    rows = connection.execute(lately)
    return [_line(row, job_of.get(row.StudyInstanceUID), counts.get(row.StudyInstanceUID, (0, 0)), delivered) for row in rows]


def of_study(connection: Connection, StudyInstanceUID: str) -> dict[str, Any]:
    """Return everything that is known of one study; empty when it is not known."""
    study = connection.execute(select(studies).where(studies.c.StudyInstanceUID == StudyInstanceUID)).one_or_none()
    if study is None:
        return {}
    of_it = select(instances).where(instances.c.StudyInstanceUID == StudyInstanceUID)
    rows = connection.execute(of_it.order_by(instances.c.received_at, instances.c.id)).all()
    return {
        "StudyInstanceUID": StudyInstanceUID,
        "first_received_at": study.first_received_at,
        "last_received_at": study.last_received_at,
        "received": _transfers(rows),
        "series": _series([row for row in rows if row.reading != Reading.UNREADABLE.value]),
        "conflicts": [_shown(row, _ASIDE_SHOWN) for row in rows if row.arrival],
        "own_results_received": sum(row.reading == Reading.OWN_RESULT.value for row in rows),
        "unreadable": _unreadable_beside(connection, study, rows),
        "jobs": _jobs(connection, StudyInstanceUID),
        "deliveries": _deliveries(connection, StudyInstanceUID),
        "events": _events(connection, StudyInstanceUID),
    }


def _count(connection: Connection, column: Any) -> dict[str, int]:
    counted = select(column, func.count()).group_by(column)
    return {row[0]: row[1] for row in connection.execute(counted)}


def _line(study: Row[Any], job: Row[Any] | None, counts: tuple[int, int], delivered: dict[int, dict[str, int]]) -> dict[str, Any]:
    line = {**_shown(study, _STUDY_SHOWN), "instances": counts[0], "series": counts[1], "job": None, "deliveries": {}}
    if job is not None:
        line["job"] = _shown(job, _JOB_SHOWN)
        line["deliveries"] = delivered.get(job.id, {})
    return line


def _transfers(rows: Any) -> list[dict[str, Any]]:
    transfers: list[dict[str, Any]] = []
    open_transfer: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        sender = (row.calling_ae, row.peer_host)
        current = open_transfer.get(sender)
        if current is None or row.received_at - current["until"] > _PAUSE_S:
            current = {
                "calling_ae": row.calling_ae,
                "peer_host": row.peer_host,
                "since": row.received_at,
                "until": row.received_at,
                "instances": 0,
            }
            open_transfer[sender] = current
            transfers.append(current)
        current["until"] = row.received_at
        current["instances"] += 1
    return transfers


def _series(rows: Any) -> list[dict[str, Any]]:
    described: dict[str, dict[str, Any]] = {}
    for row in rows:
        series = described.get(row.SeriesInstanceUID)
        if series is None:
            header = header_from_json(row.header)
            series = {
                name: getattr(header, name)
                for name in ("SeriesInstanceUID", "SeriesNumber", "Modality", "SeriesDescription", "ProtocolName")
            }
            series |= {"instances": 0, "conflicts": 0, "size_bytes": 0}
            described[row.SeriesInstanceUID] = series
        series["conflicts" if row.arrival else "instances"] += 1
        series["size_bytes"] += row.size_bytes
    return sorted(
        described.values(), key=lambda series: (series["SeriesNumber"] is None, series["SeriesNumber"] or 0, series["SeriesInstanceUID"])
    )


def _unreadable_beside(connection: Connection, study: Row[Any], rows: Any) -> list[dict[str, Any]]:
    # What says of itself that it is of the study, and, where not even that can be read, what the same senders sent at the same time.
    during = and_(
        instances.c.StudyInstanceUID.is_(None),
        instances.c.received_at.between(study.first_received_at - _PAUSE_S, study.last_received_at + _PAUSE_S),
        instances.c.calling_ae.in_({row.calling_ae for row in rows}),
    )
    of_it = or_(instances.c.StudyInstanceUID == study.StudyInstanceUID, during)
    chosen = and_(instances.c.reading == Reading.UNREADABLE.value, of_it)
    unreadable = connection.execute(select(instances).where(chosen).order_by(instances.c.received_at, instances.c.id))
    return [_shown(row, _ASIDE_SHOWN) | {"reason": row.unreadable_because} for row in unreadable]


def _jobs(connection: Connection, StudyInstanceUID: str) -> list[dict[str, Any]]:
    shown = []
    of_study = select(jobs).where(jobs.c.StudyInstanceUID == StudyInstanceUID)
    for row in connection.execute(of_study.order_by(jobs.c.revision)).all():
        files = connection.execute(select(results).where(results.c.job_id == row.id).order_by(results.c.id))
        shown.append(
            _shown(row, _JOB_SHOWN) | {"detail": from_json(row.detail), "results": [_shown(file, _RESULT_SHOWN) for file in files]}
        )
    return shown


def _deliveries(connection: Connection, StudyInstanceUID: str) -> list[dict[str, Any]]:
    joined = select(deliveries, results.c.kind, results.c.SOPInstanceUID, results.c.path).join(
        results, results.c.id == deliveries.c.result_id
    )
    of_study = joined.where(deliveries.c.StudyInstanceUID == StudyInstanceUID).order_by(deliveries.c.id)
    return [_shown(row, (*_DELIVERY_SHOWN, "kind", "SOPInstanceUID", "path")) for row in connection.execute(of_study)]


def _events(connection: Connection, StudyInstanceUID: str) -> list[dict[str, Any]]:
    of_study = select(events).where(events.c.StudyInstanceUID == StudyInstanceUID).order_by(events.c.id)
    return [{"at": row.at, "what": row.what, "detail": from_json(row.detail)} for row in connection.execute(of_study)]


def _shown(row: Row[Any], columns: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in columns}


def segmentations(connection: Connection, besides: str, limit: int) -> list[tuple[str, str]]:
    """Return (study, spool path) of the newest segmentations of other studies; of each study the newest."""
    made = select(jobs.c.StudyInstanceUID, results.c.path).join(jobs, jobs.c.id == results.c.job_id)
    wanted = made.where(results.c.kind == "seg", jobs.c.StudyInstanceUID != besides).order_by(results.c.id.desc()).limit(limit)
    newest: dict[str, str] = {}
    for study, path in connection.execute(wanted):
        newest.setdefault(study, path)
    return list(newest.items())
