"""Studies by filter, a page at a time: what lists show.

Reads only; frozen records come out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, select, tuple_

from dicomnode.ledger.database import Database
from dicomnode.ledger.history import study_lines
from dicomnode.ledger.schema import Reading, answers, deliveries, instances, jobs, studies
from dicomnode.ledger.shown import StudyLine
from dicomnode.states import DeliveryState, JobState, Outcome

# A study has one job that is not superseded: its newest.
_NEWEST = and_(
    jobs.c.StudyInstanceUID == studies.c.StudyInstanceUID, jobs.c.state != JobState.SUPERSEDED.value
)
# Hidden from the planner, which would begin with the jobs and sort all studies of a common state for each
# page.
_WALKED_STATE, _WALKED_OUTCOME = func.coalesce(jobs.c.state, ""), func.coalesce(jobs.c.outcome, "")
# As many studies in a state are named one by one.
_RARE = 1000


@dataclass(frozen=True)
class StudyFilter:
    """Which studies are listed; an empty field lets all pass.

    Attributes
    ----------
    uid_fragment
        Characters that the Study Instance UID holds.
    calling_ae
        AE title that sent at least one image of the study.
    since, until
        Limits of when the last image came, in seconds since the epoch.
    """

    state: JobState | None = None
    outcome: Outcome | None = None
    delivery: DeliveryState | None = None
    uid_fragment: str = ""
    calling_ae: str = ""
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True)
class Cursor:
    """Where a page ends: the last study on it."""

    last_received_at: float
    StudyInstanceUID: str


class Listing:
    """Lists of studies; each verb is one transaction and may raise `RetryLater`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self, wanted_studies: StudyFilter, limit: int, after: Cursor | None = None
    ) -> tuple[StudyLine, ...]:
        """Return studies that pass a filter, the last received first, beginning after a cursor."""
        query = _filtered(wanted_studies)
        if after is not None:
            query = query.where(_is_older(after))
        newest_first = (studies.c.last_received_at.desc(), studies.c.StudyInstanceUID.desc())
        with self._database.read() as connection:
            query = query.where(*_narrowed(connection, wanted_studies))
            return study_lines(connection, query.order_by(*newest_first).limit(limit))

    def cursors(self, limit: int, after: Cursor | None = None) -> tuple[Cursor, ...]:
        """Return the cursors of studies, the last received first, beginning after a cursor."""
        query = select(studies.c.last_received_at, studies.c.StudyInstanceUID)
        newest_first = (studies.c.last_received_at.desc(), studies.c.StudyInstanceUID.desc())
        if after is not None:
            query = query.where(_is_older(after))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(*newest_first).limit(limit))
            return tuple(Cursor(row[0], row[1]) for row in rows)

    def lines(self, StudyInstanceUIDs: Collection[str]) -> tuple[StudyLine, ...]:
        """Return the lines of those of these studies that are there, the last received first.

        Some hundred UIDs at once.
        """
        of_uids = select(studies).where(studies.c.StudyInstanceUID.in_(StudyInstanceUIDs))
        newest_first = (studies.c.last_received_at.desc(), studies.c.StudyInstanceUID.desc())
        with self._database.read() as connection:
            return study_lines(connection, of_uids.order_by(*newest_first))

    def present(self, StudyInstanceUIDs: Collection[str]) -> set[str]:
        """Return which of these studies are there; some hundred at once."""
        uid = studies.c.StudyInstanceUID
        with self._database.read() as connection:
            return set(connection.execute(select(uid).where(uid.in_(StudyInstanceUIDs))).scalars())

    def newest_paths(self, StudyInstanceUID: str, limit: int) -> tuple[str, ...]:
        """Return the spool paths of the images of a study that came last."""
        query = (
            select(instances.c.path)
            .where(
                instances.c.StudyInstanceUID == StudyInstanceUID,
                instances.c.reading == Reading.INDEXED.value,
            )
            .order_by(instances.c.received_at.desc(), instances.c.id.desc())
            .limit(limit)
        )
        with self._database.read() as connection:
            return tuple(connection.execute(query).scalars())


def _is_older(cursor: Cursor) -> ColumnElement[bool]:
    position = tuple_(studies.c.last_received_at, studies.c.StudyInstanceUID)
    return position < tuple_(cursor.last_received_at, cursor.StudyInstanceUID)


def _narrowed(connection: Connection, wanted_studies: StudyFilter) -> Iterator[ColumnElement[bool]]:
    """Yield the studies of a rare state or outcome by name.

    Where a state is common, the studies are walked by time until a page is full; where it is rare, that would
    be a walk through all of them.
    """
    rare = []
    if wanted_studies.state:
        rare.append(select(jobs.c.StudyInstanceUID).where(jobs.c.state == wanted_studies.state.value))
    if wanted_studies.outcome:
        # Also those that are being answered anew; the filter itself leaves them out.
        of_outcome = answers.c.outcome == wanted_studies.outcome.value
        rare.append(select(answers.c.StudyInstanceUID).where(of_outcome))
    if wanted_studies.delivery:
        in_state = deliveries.c.state == wanted_studies.delivery.value
        rare.append(select(deliveries.c.StudyInstanceUID).where(in_state))
    for query in rare:
        study_uids = connection.execute(query.limit(_RARE + 1)).scalars().all()
        if len(study_uids) <= _RARE:
            yield studies.c.StudyInstanceUID.in_(set(study_uids))


def _filtered(wanted_studies: StudyFilter) -> Select[Any]:
    """Return the query of the studies that pass, without order or limit."""
    query = select(studies)
    if wanted_studies.state or wanted_studies.outcome or wanted_studies.delivery:
        query = query.join(jobs, _NEWEST)
    if wanted_studies.state:
        query = query.where(_WALKED_STATE == wanted_studies.state.value)
    if wanted_studies.outcome:
        query = query.where(_WALKED_OUTCOME == wanted_studies.outcome.value)
    if wanted_studies.delivery:
        in_state = and_(deliveries.c.job_id == jobs.c.id, deliveries.c.state == wanted_studies.delivery.value)
        query = query.where(exists().where(in_state))
    if wanted_studies.uid_fragment:
        query = query.where(studies.c.StudyInstanceUID.contains(wanted_studies.uid_fragment, autoescape=True))
    if wanted_studies.calling_ae:
        sent_by = and_(
            instances.c.StudyInstanceUID == studies.c.StudyInstanceUID,
            func.upper(instances.c.calling_ae) == wanted_studies.calling_ae.upper(),
        )
        query = query.where(exists().where(sent_by))
    if wanted_studies.since is not None:
        query = query.where(studies.c.last_received_at >= wanted_studies.since)
    if wanted_studies.until is not None:
        query = query.where(studies.c.last_received_at < wanted_studies.until)
    return query
