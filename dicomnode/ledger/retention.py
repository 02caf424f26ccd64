"""What may go: studies that are answered and delivered, and bytes that nobody could read."""

from __future__ import annotations

from sqlalchemy import Connection, and_, delete, select

from dicomnode.ledger.schema import Reading, deliveries, events, instances, jobs, results, studies
from dicomnode.states import DeliveryState, JobState

_UNFINISHED_JOB = tuple(state.value for state in JobState if state not in (JobState.DONE, JobState.FAILED, JobState.SUPERSEDED))
_UNFINISHED_DELIVERY = (DeliveryState.DUE.value, DeliveryState.SENDING.value, DeliveryState.GIVEN_UP.value)


def expired_studies(connection: Connection, before: float) -> list[str]:
    """Return the studies that were last received before a time and that nothing is left to do for, oldest first.

    A study that waits, runs, or has an undelivered result (also a given-up one) never expires.
    """
    this = studies.c.StudyInstanceUID
    unfinished = select(jobs.c.id).where(jobs.c.StudyInstanceUID == this, jobs.c.state.in_(_UNFINISHED_JOB))
    touched = select(jobs.c.id).where(jobs.c.StudyInstanceUID == this, jobs.c.updated_at >= before)
    undelivered = select(deliveries.c.id).where(deliveries.c.StudyInstanceUID == this, deliveries.c.state.in_(_UNFINISHED_DELIVERY))
    expired = and_(studies.c.last_received_at < before, ~unfinished.exists(), ~touched.exists(), ~undelivered.exists())
    return list(connection.execute(select(this).where(expired).order_by(studies.c.last_received_at)).scalars())


def study_paths(connection: Connection, StudyInstanceUID: str) -> set[str]:
    """Return the spool paths of a study's instances and results."""
    of_jobs = select(results.c.path).join(jobs, jobs.c.id == results.c.job_id).where(jobs.c.StudyInstanceUID == StudyInstanceUID)
    received = select(instances.c.path).where(instances.c.StudyInstanceUID == StudyInstanceUID)
    return set(connection.execute(received).scalars()) | set(connection.execute(of_jobs).scalars())


def result_paths(connection: Connection) -> set[str]:
    """Return the spool paths of every result."""
    return set(connection.execute(select(results.c.path)).scalars())


def forget_study(connection: Connection, StudyInstanceUID: str) -> None:
    """Remove every row of a study. The caller removes the files."""
    job_ids = select(jobs.c.id).where(jobs.c.StudyInstanceUID == StudyInstanceUID)
    connection.execute(delete(deliveries).where(deliveries.c.job_id.in_(job_ids)))
    connection.execute(delete(results).where(results.c.job_id.in_(job_ids)))
    for table in (jobs, instances, events, studies):
        connection.execute(delete(table).where(table.c.StudyInstanceUID == StudyInstanceUID))


def expired_unreadable(connection: Connection, before: float) -> list[str]:
    """Return the spool paths of unreadable instances that came before a time."""
    expired = and_(
        instances.c.reading == Reading.UNREADABLE.value, instances.c.received_at < before, instances.c.StudyInstanceUID.is_(None)
    )
    return list(connection.execute(select(instances.c.path).where(expired)).scalars())


def forget_instance(connection: Connection, path: str) -> None:
    """Remove the row of one instance. The caller removes the file."""
    connection.execute(delete(instances).where(instances.c.path == path))
