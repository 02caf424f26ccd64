"""Jobs: made ready by evidence, claimed by state change with a lease, finished with results.

The results are written in the transaction that finishes the job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, insert, or_, select, update

from dicomnode.errors import LeaseLost, NodeError
from dicomnode.ledger import outbox, revisions
from dicomnode.ledger.answers import note_answer
from dicomnode.ledger.database import Database
from dicomnode.ledger.encoding import from_json, job_from_row, result_from_row, result_to_columns, to_json
from dicomnode.ledger.figures import ANSWER_BUCKETS_S, STEP_BUCKETS_S, count, observed
from dicomnode.ledger.schema import deliveries, jobs, results, studies
from dicomnode.ledger.senders import note_roles
from dicomnode.records import Conclusion, Job, ResultFile
from dicomnode.states import DeliveryState, JobState, Outcome

_SETTLED = (DeliveryState.CONFIRMED.value, DeliveryState.WITHDRAWN.value)
# What is sent has arrived when there is nothing to ask after.
_ARRIVED = or_(
    deliveries.c.state.in_(_SETTLED),
    and_(deliveries.c.state == DeliveryState.SENT.value, deliveries.c.confirm_at.is_(None)),
)
_OPEN = (JobState.WAITING.value, JobState.READY.value, JobState.RUNNING.value)


def _is_due(now: float) -> ColumnElement[bool]:
    """Return the condition of a job that may be claimed: it is ready, or its lease ran out."""
    return or_(
        and_(jobs.c.state == JobState.READY.value, jobs.c.not_before <= now),
        and_(jobs.c.state == JobState.RUNNING.value, jobs.c.lease_until < now),
    )


class Jobs:
    """The part of the ledger that answering works with.

    Each verb is one transaction and may raise `RetryLater`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def waiting(self) -> list[Job]:
        """Return every job that waits for its study to be complete, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(jobs).where(jobs.c.state == JobState.WAITING.value).order_by(jobs.c.id)
            )
            return [job_from_row(row) for row in rows]

    def count_open(self) -> int:
        """Return how many studies wait for their answer."""
        with self._database.read() as connection:
            return int(
                connection.execute(
                    select(func.count()).select_from(jobs).where(jobs.c.state.in_(_OPEN))
                ).scalar_one()
            )

    def open_ids(self) -> set[int]:
        """Return the jobs that wait, are ready, or are being answered."""
        with self._database.read() as connection:
            return set(connection.execute(select(jobs.c.id).where(jobs.c.state.in_(_OPEN))).scalars())

    def has_due(self, now: float) -> bool:
        """Return whether a job may be claimed."""
        with self._database.read() as connection:
            return connection.execute(select(jobs.c.id).where(_is_due(now)).limit(1)).first() is not None

    def mark_ready(
        self,
        job_id: int,
        reason: str,
        evidence: Mapping[str, Any],
        now: float,
        *,
        priority: int = 0,
        not_before: float | None = None,
    ) -> None:
        """WAITING -> READY, with the reason and what it was seen from.

        Of several that are due the one of the highest priority goes first; `not_before` keeps it until then.
        """
        with self._database.write() as connection:
            row = revisions.fetch(connection, job_id)
            detail = from_json(row.detail) | {"evidence": dict(evidence)}
            revisions.move(
                connection,
                row,
                JobState.READY,
                now,
                reason=reason,
                detail=to_json(detail),
                not_before=max(now, not_before or now),
                priority=priority,
            )
            note_roles(connection, row, len(evidence.get("roles", ())), now)
            revisions.record_event(
                connection, row, "ready", {"reason": reason, "evidence": dict(evidence)}, now
            )

    def claim(self, owner: str, now: float, lease_s: float) -> Job | None:
        """READY -> RUNNING for the job of the highest priority, of several the one that has been due longest.

        One whose lease ran out is due.
        """
        with self._database.write() as connection:
            oldest = (
                select(jobs)
                .where(_is_due(now))
                .order_by(jobs.c.priority.desc(), jobs.c.not_before, jobs.c.id)
                .limit(1)
            )
            row = connection.execute(oldest.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            if row.state == JobState.RUNNING.value:
                revisions.move(connection, row, JobState.READY, now)
                revisions.record_event(connection, row, "lease-expired", {"owner": row.owner}, now)
                row = revisions.fetch(connection, row.id)
            revisions.move(
                connection,
                row,
                JobState.RUNNING,
                now,
                attempts=row.attempts + 1,
                owner=owner,
                lease_until=now + lease_s,
            )
            revisions.record_event(
                connection, row, "claimed", {"owner": owner, "attempt": row.attempts + 1}, now
            )
            return job_from_row(revisions.fetch(connection, row.id))

    def renew(self, job_id: int, owner: str, now: float, lease_s: float) -> bool:
        """Prolong the lease; False when the job is no longer the owner's."""
        with self._database.write() as connection:
            is_held = and_(jobs.c.id == job_id, jobs.c.owner == owner, jobs.c.state == JobState.RUNNING.value)
            return (
                connection.execute(update(jobs).where(is_held).values(lease_until=now + lease_s)).rowcount
                == 1
            )

    def note_step(self, job_id: int, step: str | None, now: float) -> None:
        """Note the step that the computation of an open job is in; None: it is in none."""
        with self._database.write() as connection:
            is_open = and_(jobs.c.id == job_id, jobs.c.state.in_(_OPEN))
            since = None if step is None else now
            connection.execute(update(jobs).where(is_open).values(step=step, step_since=since))

    def forget_steps(self) -> None:
        """Note that nothing is computed: what a process was at that was killed ended with it."""
        with self._database.write() as connection:
            is_marked = and_(jobs.c.state.in_(_OPEN), jobs.c.step.is_not(None))
            connection.execute(update(jobs).where(is_marked).values(step=None, step_since=None))

    def release(self, job_id: int, owner: str, reason: str, now: float, retry_at: float) -> None:
        """RUNNING -> READY, not to be claimed before `retry_at`."""
        with self._database.write() as connection:
            row = _running(connection, job_id, owner)
            revisions.move(
                connection,
                row,
                JobState.READY,
                now,
                reason=reason,
                owner=None,
                lease_until=None,
                not_before=retry_at,
            )
            revisions.record_event(connection, row, "released", {"reason": reason, "retry_at": retry_at}, now)

    def finish(self, job_id: int, owner: str, conclusion: Conclusion, now: float) -> None:
        """RUNNING -> ENCODED, with its results and a due delivery for each destination that takes that kind.

        `LeaseLost` when not `owner`'s.
        """
        with self._database.write() as connection:
            row = _running(connection, job_id, owner)
            detail = to_json(from_json(row.detail) | dict(conclusion.detail))
            answered = {"outcome": conclusion.outcome.value, "reason": conclusion.reason}
            revisions.move(
                connection,
                row,
                JobState.ENCODED,
                now,
                detail=detail,
                owner=None,
                lease_until=None,
                **answered,
            )
            for file in conclusion.results:
                inserted = connection.execute(
                    insert(results).values(job_id=job_id, created_at=now, **result_to_columns(file))
                )
                (result_id,) = inserted.inserted_primary_key or (None,)
                for destination in (
                    name for name, kinds in conclusion.destinations.items() if file.kind in kinds
                ):
                    connection.execute(
                        insert(deliveries).values(_due_delivery(row, result_id, destination, now))
                    )
            sent = {
                "results": [file.kind for file in conclusion.results],
                "destinations": sorted(conclusion.destinations),
            }
            revisions.record_event(connection, row, "encoded", answered | sent, now)
            count(connection, _figures_of(connection, row, conclusion, now))
            note_answer(connection, row.StudyInstanceUID, conclusion.outcome, conclusion.detail, now)

    def earlier_reports(self, StudyInstanceUID: str, revision: int) -> list[ResultFile]:
        """Return the reports of earlier revisions of a study that have reached somebody, the newest first."""
        with self._database.read() as connection:
            arrived = select(deliveries.c.result_id).where(
                deliveries.c.state.in_((DeliveryState.SENT.value, DeliveryState.CONFIRMED.value))
            )
            reports = (
                select(results)
                .join(jobs, jobs.c.id == results.c.job_id)
                .where(jobs.c.StudyInstanceUID == StudyInstanceUID, jobs.c.revision < revision)
                .where(
                    or_(results.c.kind == "sr", results.c.kind.startswith("sr.")), results.c.id.in_(arrived)
                )
                .order_by(jobs.c.revision.desc(), results.c.id.desc())
            )
            return [result_from_row(row) for row in connection.execute(reports)]

    def fail(self, job_id: int, owner: str, reason: str, now: float) -> None:
        """RUNNING -> FAILED: not even a report could be made."""
        with self._database.write() as connection:
            row = _running(connection, job_id, owner)
            revisions.move(
                connection,
                row,
                JobState.FAILED,
                now,
                reason=reason,
                outcome=Outcome.FAILED.value,
                owner=None,
                lease_until=None,
            )
            revisions.record_event(connection, row, "failed", {"reason": reason}, now)
            count(connection, {("outcomes", Outcome.FAILED.value): 1})
            note_answer(connection, row.StudyInstanceUID, Outcome.FAILED, {}, now)

    def retry(
        self,
        StudyInstanceUID: str,
        now: float,
        *,
        rerun: bool = False,
        reason: str = "asked for by the operator",
    ) -> Job:
        """Try the newest job of a study again.

        Its undelivered results when it has some and `rerun` is not asked for, else all of it.
        """
        with self._database.write() as connection:
            row = revisions.newest_job(connection, StudyInstanceUID)
            if row is None:
                raise NodeError(f"study {StudyInstanceUID} is not known")
            if row.state in (JobState.WAITING.value, JobState.RUNNING.value):
                raise NodeError(f"study {StudyInstanceUID} is {row.state}; there is nothing to retry yet")
            if outbox.is_sending(connection, row.id):
                raise NodeError(f"a result of study {StudyInstanceUID} is being sent; try again in a moment")
            revived = 0 if rerun else outbox.revive(connection, row.id, now)
            if revived:
                revisions.record_event(connection, row, "retried", {"deliveries": revived}, now)
            elif row.state == JobState.READY.value:
                connection.execute(
                    update(jobs).where(jobs.c.id == row.id).values(not_before=now, attempts=0, updated_at=now)
                )
            else:
                outbox.withdraw_unsent(connection, row.id, now)
                detail = to_json(
                    {key: value for key, value in from_json(row.detail).items() if key != "sent_again"}
                )
                revisions.move(
                    connection,
                    row,
                    JobState.READY,
                    now,
                    attempts=0,
                    not_before=now,
                    reason=reason,
                    detail=detail,
                )
                revisions.record_event(connection, row, "replayed", {"was": row.state, "reason": reason}, now)
            return job_from_row(revisions.fetch(connection, row.id))

    def close_delivered(self, now: float) -> int:
        """ENCODED -> DONE where no delivery is left to be made; return how many."""
        with self._database.write() as connection:
            open_deliveries = select(deliveries.c.id).where(deliveries.c.job_id == jobs.c.id, ~_ARRIVED)
            delivered = select(jobs).where(jobs.c.state == JobState.ENCODED.value, ~open_deliveries.exists())
            rows = connection.execute(delivered.with_for_update()).all()
            for row in rows:
                revisions.move(connection, row, JobState.DONE, now)
                revisions.record_event(connection, row, "done", {}, now)
            return len(rows)

    def release_owner(self, owner_prefix: str, now: float) -> int:
        """Make ready again what a dead owner was working on: RUNNING -> READY."""
        with self._database.write() as connection:
            is_held = and_(
                jobs.c.state == JobState.RUNNING.value, jobs.c.owner.startswith(owner_prefix, autoescape=True)
            )
            rows = connection.execute(select(jobs).where(is_held).with_for_update()).all()
            for row in rows:
                revisions.move(
                    connection, row, JobState.READY, now, owner=None, lease_until=None, not_before=now
                )
                revisions.record_event(
                    connection, row, "released", {"reason": "the worker stopped", "owner": row.owner}, now
                )
            return len(rows)


def _figures_of(
    connection: Connection, job: Row[Any], conclusion: Conclusion, now: float
) -> dict[tuple[str, str], float]:
    """Return what an answer adds to the figures.

    Its outcome, the seconds from the last image to it, and those of each step.
    """
    received_at: float = connection.execute(
        select(studies.c.last_received_at).where(studies.c.StudyInstanceUID == job.StudyInstanceUID)
    ).scalar_one()
    outcome = conclusion.outcome.value
    amounts = {("outcomes", outcome): 1.0}
    amounts |= observed("answer_seconds", outcome, max(0.0, now - received_at), ANSWER_BUCKETS_S)
    for step in conclusion.detail.get("steps", ()):
        if not step.get("cached"):
            for key, amount in observed(
                "step_seconds", step["name"], step["seconds"], STEP_BUCKETS_S
            ).items():
                amounts[key] = amounts.get(key, 0.0) + amount
    return amounts


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


def _running(connection: Connection, job_id: int, owner: str) -> Row[Any]:
    row = revisions.fetch(connection, job_id)
    if row.state != JobState.RUNNING.value or row.owner != owner:
        raise LeaseLost(
            f"job {job_id} of study {row.StudyInstanceUID} is {row.state} and no longer held by "
            f"{owner}; its result is dropped"
        )
    return row
