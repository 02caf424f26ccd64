"""What may go: studies that are answered and delivered, and bytes that nobody could read."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, and_, delete, or_, select
from sqlalchemy.sql.elements import ColumnElement

from dicomnode.ledger.answers import part_from_study
from dicomnode.ledger.database import Database
from dicomnode.ledger.schema import (
    Reading,
    archive_askings,
    archive_counts,
    deliveries,
    events,
    fetches,
    instances,
    jobs,
    results,
    studies,
)
from dicomnode.states import DeliveryState, JobState

_UNFINISHED_JOB = tuple(
    state.value for state in JobState if state not in (JobState.DONE, JobState.FAILED, JobState.SUPERSEDED)
)
_UNFINISHED_DELIVERY = (DeliveryState.DUE.value, DeliveryState.SENDING.value, DeliveryState.GIVEN_UP.value)

# Removes the files at these paths of the spool.
Remove = Callable[[set[str]], None]


class Retention:
    """The part of the ledger that says what may go.

    Each verb is one transaction and may raise `RetryLater`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def expired_studies(self, before: float) -> list[str]:
        """Return the finished studies that were last received before a time, oldest first.

        A study that waits, runs, or has an undelivered result (also a given-up one) never expires.
        """
        with self._database.read() as connection:
            study_uid = studies.c.StudyInstanceUID
            return list(
                connection.execute(
                    select(study_uid).where(_is_expired(before)).order_by(studies.c.last_received_at)
                ).scalars()
            )

    def expire_study(self, StudyInstanceUID: str, before: float, remove: Remove) -> bool:
        """Have a study's files removed, then its rows.

        False when it came again, or was worked on, since it was listed.

        `remove` runs while nobody else can write: an instance is acknowledged as known either before, and
        then the study stays, or after, when `receive` sees that the file is gone.
        """
        with self._database.write() as connection:
            study_uid = studies.c.StudyInstanceUID
            still_expired = (
                select(study_uid).where(study_uid == StudyInstanceUID, _is_expired(before)).with_for_update()
            )
            if connection.execute(still_expired).first() is None:
                return False
            remove(_study_paths(connection, StudyInstanceUID))
            _forget_study(connection, StudyInstanceUID)
            return True

    def result_paths(self) -> set[str]:
        """Return the spool paths of every result."""
        with self._database.read() as connection:
            return set(connection.execute(select(results.c.path)).scalars())

    def expired_unreadable(self, before: float) -> list[str]:
        """Return the spool paths of unreadable instances that came before a time."""
        with self._database.read() as connection:
            return list(
                connection.execute(select(instances.c.path).where(_is_expired_unreadable(before))).scalars()
            )

    def expire_unreadable(self, path: str, before: float, remove: Remove) -> bool:
        """Have the file of an unreadable instance removed and remove its row.

        False when it came again since it was listed.
        """
        with self._database.write() as connection:
            study_uid = and_(instances.c.path == path, _is_expired_unreadable(before))
            if connection.execute(select(instances.c.id).where(study_uid).with_for_update()).first() is None:
                return False
            remove({path})
            connection.execute(delete(instances).where(study_uid))
            return True


def _study_paths(connection: Connection, StudyInstanceUID: str) -> set[str]:
    """Return the spool paths of a study's instances and results."""
    of_jobs = (
        select(results.c.path)
        .join(jobs, jobs.c.id == results.c.job_id)
        .where(jobs.c.StudyInstanceUID == StudyInstanceUID)
    )
    received = select(instances.c.path).where(instances.c.StudyInstanceUID == StudyInstanceUID)
    return set(connection.execute(received).scalars()) | set(connection.execute(of_jobs).scalars())


def _forget_study(connection: Connection, StudyInstanceUID: str) -> None:
    """Remove every row of a study; what statistics read of it stays, without its UID."""
    part_from_study(connection, StudyInstanceUID)
    job_ids = select(jobs.c.id).where(jobs.c.StudyInstanceUID == StudyInstanceUID)
    connection.execute(delete(deliveries).where(deliveries.c.job_id.in_(job_ids)))
    connection.execute(delete(results).where(results.c.job_id.in_(job_ids)))
    for table in (jobs, instances, events, fetches, archive_counts, archive_askings, studies):
        connection.execute(delete(table).where(table.c.StudyInstanceUID == StudyInstanceUID))


def _is_expired(before: float) -> ColumnElement[bool]:
    study_uid = studies.c.StudyInstanceUID
    unfinished = select(jobs.c.id).where(
        jobs.c.StudyInstanceUID == study_uid, jobs.c.state.in_(_UNFINISHED_JOB)
    )
    touched = select(jobs.c.id).where(jobs.c.StudyInstanceUID == study_uid, jobs.c.updated_at >= before)
    open_ended = or_(deliveries.c.state.in_(_UNFINISHED_DELIVERY), deliveries.c.confirm_at.is_not(None))
    undelivered = select(deliveries.c.id).where(deliveries.c.StudyInstanceUID == study_uid, open_ended)
    return and_(
        studies.c.last_received_at < before, ~unfinished.exists(), ~touched.exists(), ~undelivered.exists()
    )


def _is_expired_unreadable(before: float) -> ColumnElement[bool]:
    return and_(
        instances.c.reading == Reading.UNREADABLE.value,
        instances.c.received_at < before,
        instances.c.StudyInstanceUID.is_(None),
    )
