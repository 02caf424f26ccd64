"""Jobs: opened by content, made ready by evidence, claimed by state change with a lease, finished with results in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, insert, or_, select, update

from dicomnode.errors import LeaseLost, NodeError, StateError
from dicomnode.ledger import deliveries as outbox
from dicomnode.ledger.encoding import from_json, job_from_row, result_from_row, result_to_columns, to_json
from dicomnode.ledger.events import add_event
from dicomnode.ledger.schema import deliveries, jobs, results
from dicomnode.records import Job, ResultFile
from dicomnode.states import DeliveryState, JobState, Outcome, advance

_SETTLED = (DeliveryState.CONFIRMED.value, DeliveryState.WITHDRAWN.value)
# As often a study that fails is tried because it is sent again.
_SENT_AGAIN = 3
# What is sent has arrived when there is nothing to ask after.
_ARRIVED = or_(deliveries.c.state.in_(_SETTLED), and_(deliveries.c.state == DeliveryState.SENT.value, deliveries.c.confirm_at.is_(None)))


def admit_content(connection: Connection, StudyInstanceUID: str, now: float, reopens: bool) -> None:
    """Make sure that new content of a study will be answered: open its first job, or supersede one that began without it.

    The caller holds the row of the study, so that two of these cannot open the same revision.
    """
    newest = newest_job(connection, StudyInstanceUID)
    if newest is None:
        _open(connection, StudyInstanceUID, 1, now)
    elif newest.state != JobState.WAITING.value and reopens:
        _move(connection, newest, JobState.SUPERSEDED, now, owner=None, lease_until=None)
        withdrawn = outbox.withdraw_unsent(connection, newest.id, now)
        _tell(connection, newest, "superseded", {"was": newest.state, "withdrawn": withdrawn}, now)
        _open(connection, StudyInstanceUID, newest.revision + 1, now)


def newest_job(connection: Connection, StudyInstanceUID: str) -> Row[Any] | None:
    """Return the row of the job with the highest revision."""
    of_study = select(jobs).where(jobs.c.StudyInstanceUID == StudyInstanceUID)
    return connection.execute(of_study.order_by(jobs.c.revision.desc()).limit(1).with_for_update()).one_or_none()


def earlier_reports(connection: Connection, StudyInstanceUID: str, revision: int) -> list[ResultFile]:
    """Return the reports of earlier revisions of a study that have reached somebody, the newest first."""
    arrived = select(deliveries.c.result_id).where(deliveries.c.state.in_((DeliveryState.SENT.value, DeliveryState.CONFIRMED.value)))
    reports = (
        select(results)
        .join(jobs, jobs.c.id == results.c.job_id)
        .where(jobs.c.StudyInstanceUID == StudyInstanceUID, jobs.c.revision < revision)
        .where(or_(results.c.kind == "sr", results.c.kind.startswith("sr.")), results.c.id.in_(arrived))
        .order_by(jobs.c.revision.desc(), results.c.id.desc())
    )
    return [result_from_row(row) for row in connection.execute(reports)]


def waiting(connection: Connection) -> list[Job]:
    """Return every job that waits for its study to be complete, oldest first."""
    rows = connection.execute(select(jobs).where(jobs.c.state == JobState.WAITING.value).order_by(jobs.c.id))
    return [job_from_row(row) for row in rows]


def mark_ready(connection: Connection, job_id: int, reason: str, evidence: Mapping[str, Any], now: float) -> None:
    """WAITING -> READY, with the reason and what it was seen from."""
    row = _fetch(connection, job_id)
    detail = from_json(row.detail) | {"evidence": dict(evidence)}
    _move(connection, row, JobState.READY, now, reason=reason, detail=to_json(detail), not_before=now)
    _tell(connection, row, "ready", {"reason": reason, "evidence": dict(evidence)}, now)


def claim(connection: Connection, owner: str, now: float, lease_s: float) -> Job | None:
    """READY -> RUNNING for the job that has been due longest; one whose lease ran out is due."""
    due = or_(
        and_(jobs.c.state == JobState.READY.value, jobs.c.not_before <= now),
        and_(jobs.c.state == JobState.RUNNING.value, jobs.c.lease_until < now),
    )
    oldest = select(jobs).where(due).order_by(jobs.c.not_before, jobs.c.id).limit(1)
    row = connection.execute(oldest.with_for_update(skip_locked=True)).one_or_none()
    if row is None:
        return None
    if row.state == JobState.RUNNING.value:
        _move(connection, row, JobState.READY, now)
        _tell(connection, row, "lease-expired", {"owner": row.owner}, now)
        row = _fetch(connection, row.id)
    _move(connection, row, JobState.RUNNING, now, attempts=row.attempts + 1, owner=owner, lease_until=now + lease_s)
    _tell(connection, row, "claimed", {"owner": owner, "attempt": row.attempts + 1}, now)
    return job_from_row(_fetch(connection, row.id))


def renew(connection: Connection, job_id: int, owner: str, now: float, lease_s: float) -> bool:
    """Prolong the lease; False when the job is no longer the owner's."""
    held = and_(jobs.c.id == job_id, jobs.c.owner == owner, jobs.c.state == JobState.RUNNING.value)
    return connection.execute(update(jobs).where(held).values(lease_until=now + lease_s)).rowcount == 1


def release(connection: Connection, job_id: int, owner: str, reason: str, now: float, retry_at: float) -> None:
    """RUNNING -> READY, not to be claimed before `retry_at`."""
    row = _held(connection, job_id, owner)
    _move(connection, row, JobState.READY, now, reason=reason, owner=None, lease_until=None, not_before=retry_at)
    _tell(connection, row, "released", {"reason": reason, "retry_at": retry_at}, now)


def finish(
    connection: Connection,
    job_id: int,
    owner: str,
    outcome: Outcome,
    reason: str,
    files: Sequence[ResultFile],
    destinations: Mapping[str, Sequence[str]],
    detail: Mapping[str, Any],
    now: float,
) -> None:
    """RUNNING -> ENCODED, with its results and a due delivery for each destination that takes that kind."""
    row = _held(connection, job_id, owner)
    merged = to_json(from_json(row.detail) | dict(detail))
    _move(connection, row, JobState.ENCODED, now, outcome=outcome.value, reason=reason, detail=merged, owner=None, lease_until=None)
    for file in files:
        inserted = connection.execute(insert(results).values(job_id=job_id, created_at=now, **result_to_columns(file)))
        (result_id,) = inserted.inserted_primary_key or (None,)
        for destination in (name for name, kinds in destinations.items() if file.kind in kinds):
            connection.execute(insert(deliveries).values(_due_delivery(row, result_id, destination, now)))
    kinds = [file.kind for file in files]
    _tell(
        connection,
        row,
        "encoded",
        {"outcome": outcome.value, "reason": reason, "results": kinds, "destinations": sorted(destinations)},
        now,
    )


def fail(connection: Connection, job_id: int, owner: str, reason: str, now: float) -> None:
    """RUNNING -> FAILED: not even a report could be made."""
    row = _held(connection, job_id, owner)
    _move(connection, row, JobState.FAILED, now, reason=reason, outcome=Outcome.FAILED.value, owner=None, lease_until=None)
    _tell(connection, row, "failed", {"reason": reason}, now)


def retry(connection: Connection, StudyInstanceUID: str, now: float, rerun: bool, reason: str) -> Job:
    """Try the newest job of a study again: its undelivered results when it has some and `rerun` is not asked for, else all of it."""
    row = newest_job(connection, StudyInstanceUID)
    if row is None:
        raise NodeError(f"study {StudyInstanceUID} is not known")
    if row.state in (JobState.WAITING.value, JobState.RUNNING.value):
        raise NodeError(f"study {StudyInstanceUID} is {row.state}; there is nothing to retry yet")
    if outbox.is_sending(connection, row.id):
        raise NodeError(f"a result of study {StudyInstanceUID} is being sent; try again in a moment")
    revived = 0 if rerun else outbox.revive(connection, row.id, now)
    if revived:
        _tell(connection, row, "retried", {"deliveries": revived}, now)
    elif row.state == JobState.READY.value:
        connection.execute(update(jobs).where(jobs.c.id == row.id).values(not_before=now, attempts=0, updated_at=now))
    else:
        outbox.withdraw_unsent(connection, row.id, now)
        detail = to_json({key: value for key, value in from_json(row.detail).items() if key != "sent_again"})
        _move(connection, row, JobState.READY, now, attempts=0, not_before=now, reason=reason, detail=detail)
        _tell(connection, row, "replayed", {"was": row.state, "reason": reason}, now)
    return job_from_row(_fetch(connection, row.id))


def note_sent_again(connection: Connection, StudyInstanceUID: str, now: float) -> bool:
    """Have a study whose processing failed wait for a new try, because its images are sent again; return whether it does.

    One that ended well, or was refused, does not; nor does one that failed again and again: it may be an archive that sends the
    study back to us whenever it gets a report.
    """
    row = newest_job(connection, StudyInstanceUID)
    if row is None:
        return False
    times = int(from_json(row.detail).get("sent_again", 0))
    if row.state == JobState.WAITING.value:
        return times > 0
    ended = row.state in (JobState.ENCODED.value, JobState.DONE.value, JobState.FAILED.value)
    if not ended or row.outcome != Outcome.FAILED.value or times >= _SENT_AGAIN or outbox.is_sending(connection, row.id):
        return False
    outbox.withdraw_unsent(connection, row.id, now)
    reason, detail = "sent again after it failed", to_json(from_json(row.detail) | {"sent_again": times + 1})
    _move(connection, row, JobState.WAITING, now, attempts=0, outcome=None, reason=reason, detail=detail)
    _tell(connection, row, "sent-again", {"was": row.state, "times": times + 1}, now)
    return True


def close_delivered(connection: Connection, now: float) -> int:
    """ENCODED -> DONE where no delivery is left to be made; return how many."""
    open_deliveries = select(deliveries.c.id).where(deliveries.c.job_id == jobs.c.id, ~_ARRIVED)
    delivered = select(jobs).where(jobs.c.state == JobState.ENCODED.value, ~open_deliveries.exists())
    rows = connection.execute(delivered.with_for_update()).all()
    for row in rows:
        _move(connection, row, JobState.DONE, now)
        _tell(connection, row, "done", {}, now)
    return len(rows)


def release_owner(connection: Connection, owner_prefix: str, now: float) -> int:
    """Make ready again what a dead owner was working on: RUNNING -> READY."""
    held = and_(jobs.c.state == JobState.RUNNING.value, jobs.c.owner.startswith(owner_prefix, autoescape=True))
    rows = connection.execute(select(jobs).where(held).with_for_update()).all()
    for row in rows:
        _move(connection, row, JobState.READY, now, owner=None, lease_until=None, not_before=now)
        _tell(connection, row, "released", {"reason": "the worker stopped", "owner": row.owner}, now)
    return len(rows)


def _open(connection: Connection, StudyInstanceUID: str, revision: int, now: float) -> None:
    values = {"StudyInstanceUID": StudyInstanceUID, "revision": revision, "state": JobState.WAITING.value, "attempts": 0}
    connection.execute(insert(jobs).values(reason="", detail="{}", not_before=now, created_at=now, updated_at=now, **values))
    add_event(connection, StudyInstanceUID, "opened", {"revision": revision}, now)


def _due_delivery(job: Row[Any], result_id: Any, destination: str, now: float) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "result_id": result_id,
        "StudyInstanceUID": job.StudyInstanceUID,
        "destination": destination,
        "state": DeliveryState.DUE.value,
        "attempts": 0,
        "next_attempt_at": now,
        "last_status": "",
        "updated_at": now,
    }


def _fetch(connection: Connection, job_id: int) -> Row[Any]:
    row = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).one_or_none()
    if row is None:
        raise StateError(f"job {job_id} is not in the ledger")
    return row


def _held(connection: Connection, job_id: int, owner: str) -> Row[Any]:
    row = _fetch(connection, job_id)
    if row.state != JobState.RUNNING.value or row.owner != owner:
        raise LeaseLost(f"job {job_id} of study {row.StudyInstanceUID} is {row.state} and no longer held by {owner}; its result is dropped")
    return row


def _move(connection: Connection, row: Row[Any], target: JobState, now: float, **values: Any) -> None:
    advance(JobState(row.state), target)
    unchanged = and_(jobs.c.id == row.id, jobs.c.state == row.state)
    changed = connection.execute(update(jobs).where(unchanged).values(state=target.value, updated_at=now, **values))
    if changed.rowcount != 1:
        raise StateError(f"job {row.id} was changed by somebody else")


def _tell(connection: Connection, row: Row[Any], what: str, detail: Mapping[str, Any], now: float) -> None:
    add_event(connection, row.StudyInstanceUID, what, {"job_id": row.id, "revision": row.revision, **detail}, now)
