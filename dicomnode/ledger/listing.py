"""Studies by filter, a page at a time, and figures over days: what lists and charts show.

Reads only; frozen records come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, exists, func, select, tuple_

from dicomnode.ledger.database import Database
from dicomnode.ledger.encoding import from_json
from dicomnode.ledger.history import study_lines
from dicomnode.ledger.schema import Reading, deliveries, instances, jobs, results, studies
from dicomnode.ledger.shown import StudyLine
from dicomnode.states import DeliveryState, JobState, Outcome

# A study has one job that is not superseded: its newest.
_NEWEST = and_(
    jobs.c.StudyInstanceUID == studies.c.StudyInstanceUID, jobs.c.state != JobState.SUPERSEDED.value
)


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


@dataclass(frozen=True)
class AnswerLine:
    """One finished answer, for statistics.

    `total_ml` is the volume of all lesions; None where none was measured. `code` names a refusal.
    """

    received_at: float
    answered_at: float
    outcome: str
    reason: str
    code: str
    total_ml: float | None


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
            position = tuple_(studies.c.last_received_at, studies.c.StudyInstanceUID)
            query = query.where(position < tuple_(after.last_received_at, after.StudyInstanceUID))
        newest_first = (studies.c.last_received_at.desc(), studies.c.StudyInstanceUID.desc())
        with self._database.read() as connection:
            return study_lines(connection, query.order_by(*newest_first).limit(limit))

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

    def answers(self, since: float, limit: int = 20_000) -> tuple[AnswerLine, ...]:
        """Return the answers to studies whose last image came at or after a time, the newest first."""
        columns = (studies.c.last_received_at, jobs.c.outcome, jobs.c.reason, jobs.c.detail)
        # `updated_at` of a delivered job is when it was delivered; its results are made when it was answered.
        made_at = (
            select(func.min(results.c.created_at)).where(results.c.job_id == jobs.c.id).scalar_subquery()
        )
        query = (
            select(*columns, func.coalesce(made_at, jobs.c.updated_at).label("answered_at"))
            .join(jobs, _NEWEST)
            .where(studies.c.last_received_at >= since, jobs.c.outcome.is_not(None))
            .order_by(studies.c.last_received_at.desc())
            .limit(limit)
        )
        with self._database.read() as connection:
            return tuple(_answer_line(row) for row in connection.execute(query))


def _filtered(wanted_studies: StudyFilter) -> Select[Any]:
    """Return the query of the studies that pass, without order or limit."""
    query = select(studies)
    if wanted_studies.state or wanted_studies.outcome or wanted_studies.delivery:
        query = query.join(jobs, _NEWEST)
    if wanted_studies.state:
        query = query.where(jobs.c.state == wanted_studies.state.value)
    if wanted_studies.outcome:
        query = query.where(jobs.c.outcome == wanted_studies.outcome.value)
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


def _answer_line(row: Any) -> AnswerLine:
    detail = from_json(row.detail)
    lesions: Sequence[dict[str, Any]] = detail.get("lesions", ())
    measured = row.outcome in (Outcome.LESIONS.value, Outcome.NEGATIVE.value)
    total_ml = sum(float(lesion["volume_ml"]) for lesion in lesions) if measured else None
    return AnswerLine(
        received_at=row.last_received_at,
        answered_at=row.answered_at,
        outcome=row.outcome,
        reason=row.reason,
        code=str(detail.get("code", "")),
        total_ml=total_ml,
    )
