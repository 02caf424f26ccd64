"""Steps of jobs inside a transaction that somebody else began: content opens and supersedes revisions.

The verbs are in `jobs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, insert, select, update

from dicomnode.errors import StateError
from dicomnode.ledger import outbox
from dicomnode.ledger.encoding import from_json, to_json
from dicomnode.ledger.events import add_event
from dicomnode.ledger.schema import jobs
from dicomnode.states import JobState, Outcome, advance

# As often a study that fails is tried because it is sent again.
_SENT_AGAIN = 3
_RESTING = (JobState.DONE.value, JobState.FAILED.value)
_NEWEST = (
    select(jobs)
    .where(jobs.c.StudyInstanceUID == bindparam("StudyInstanceUID"))
    .order_by(jobs.c.revision.desc())
    .limit(1)
    .with_for_update()
)


def admit_content(
    connection: Connection, StudyInstanceUID: str, now: float, reopens: bool
) -> Row[Any] | None:
    """Make sure that new content of a study will be answered.

    Open its first job, or supersede one that began without it; return the superseded one as it was.

    The caller holds the row of the study, so that two of these cannot open the same revision.
    """
    newest = newest_job(connection, StudyInstanceUID)
    if newest is None:
        _open(connection, StudyInstanceUID, 1, now)
    elif newest.state != JobState.WAITING.value and reopens:
        move(connection, newest, JobState.SUPERSEDED, now, owner=None, lease_until=None)
        withdrawn = outbox.withdraw_unsent(connection, newest.id, now)
        record_event(connection, newest, "superseded", {"was": newest.state, "withdrawn": withdrawn}, now)
        _open(connection, StudyInstanceUID, newest.revision + 1, now)
        return newest
    return None


def newest_job(connection: Connection, StudyInstanceUID: str) -> Row[Any] | None:
    """Return the row of the job with the highest revision."""
    return connection.execute(_NEWEST, {"StudyInstanceUID": StudyInstanceUID}).one_or_none()


def note_sent_again(connection: Connection, StudyInstanceUID: str, now: float) -> bool:
    """Have a study whose processing failed wait for a new try, because its images are sent again.

    Return whether it does.

    One that ended well, or was refused, does not; nor does one that failed again and again: it may be an
    archive that sends the study back to us whenever it gets a report.
    """
    row = newest_job(connection, StudyInstanceUID)
    if row is None:
        return False
    times = int(from_json(row.detail).get("sent_again", 0))
    if row.state == JobState.WAITING.value:
        return times > 0
    ended = row.state in (JobState.ENCODED.value, JobState.DONE.value, JobState.FAILED.value)
    if (
        not ended
        or row.outcome != Outcome.FAILED.value
        or times >= _SENT_AGAIN
        or outbox.is_sending(connection, row.id)
    ):
        return False
    outbox.withdraw_unsent(connection, row.id, now)
    reason, detail = "sent again after it failed", to_json(from_json(row.detail) | {"sent_again": times + 1})
    move(connection, row, JobState.WAITING, now, attempts=0, outcome=None, reason=reason, detail=detail)
    record_event(connection, row, "sent-again", {"was": row.state, "times": times + 1}, now)
    return True


def note_resent(connection: Connection, StudyInstanceUID: str, received_at: float) -> None:
    """Note that bytes of an answered study were received and acknowledged again.

    The study then does not expire while its sender still sends.
    """
    answered = and_(
        jobs.c.StudyInstanceUID == StudyInstanceUID,
        jobs.c.state.in_(_RESTING),
        jobs.c.updated_at < received_at,
    )
    connection.execute(update(jobs).where(answered).values(updated_at=received_at))


def fetch(connection: Connection, job_id: int) -> Row[Any]:
    """Return the row of a job and hold it; `StateError` when there is none."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).one_or_none()
    if row is None:
        raise StateError(f"job {job_id} is not in the ledger")
    return row


def move(connection: Connection, row: Row[Any], target: JobState, now: float, **values: Any) -> None:
    """Change a job from the state that `row` shows; the step that it was in is over.

    `StateError` when the table forbids it or somebody was faster.
    """
    advance(JobState(row.state), target)
    unchanged = and_(jobs.c.id == row.id, jobs.c.state == row.state)
    changed = connection.execute(
        update(jobs)
        .where(unchanged)
        .values(state=target.value, updated_at=now, step=None, step_since=None, **values)
    )
    if changed.rowcount != 1:
        raise StateError(f"job {row.id} was changed by somebody else")


def record_event(
    connection: Connection, row: Row[Any], event: str, detail: Mapping[str, Any], now: float
) -> None:
    """Append to the diary of a job's study."""
    add_event(
        connection, row.StudyInstanceUID, event, {"job_id": row.id, "revision": row.revision, **detail}, now
    )


def _open(connection: Connection, StudyInstanceUID: str, revision: int, now: float) -> None:
    values = {
        "StudyInstanceUID": StudyInstanceUID,
        "revision": revision,
        "state": JobState.WAITING.value,
        "attempts": 0,
    }
    connection.execute(
        insert(jobs).values(reason="", detail="{}", not_before=now, created_at=now, updated_at=now, **values)
    )
    add_event(connection, StudyInstanceUID, "opened", {"revision": revision}, now)
