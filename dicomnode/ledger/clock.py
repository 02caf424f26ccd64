"""`Times`: the clock was set back, and what waits for a time of the old clock would wait too long.

It is made due.

Rules for this file:
1. Only what somebody waits for is touched; what happened keeps its time.
2. Whether the clock was set back is seen from the rows alone: what was written in the future was written
   before. So it is seen after a restart, too, and clocks of two hosts may differ by `TOLERANCE_S`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table, and_, select, update
from sqlalchemy.sql.elements import ColumnElement

from dicomnode.ledger.database import Database
from dicomnode.ledger.schema import (
    archive_askings,
    archive_counts,
    commitment_requests,
    deliveries,
    fetches,
    jobs,
    offers,
    studies,
)
from dicomnode.states import DeliveryState, JobState

TOLERANCE_S = 30.0

_Mend = tuple[Table, ColumnElement[bool], Mapping[str, Any]]


class Times:
    """The part of the ledger that copes with a clock that was set back; each verb may raise `RetryLater`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def mend(self, now: float, *, lease_s: float, fetch_wait_s: float, learn_s: float) -> int:
        """Make due what waits for a time that will not come for long; return how many rows that were.

        Parameters
        ----------
        now
            Seconds since the epoch, by the clock as it is now.
        lease_s
            The longest lease. One that ends later is cut to it: who holds it prolongs it, who died loses it
            then.
        fetch_wait_s, learn_s
            The longest waits of what does not say when it was written.
        """
        mends = _mends(now, lease_s, fetch_wait_s, learn_s)
        with self._database.read() as connection:
            wrong = [
                mend
                for mend in mends
                if connection.execute(select(mend[0]).where(mend[1]).limit(1)).first() is not None
            ]
        if not wrong:
            return 0
        with self._database.write() as connection:
            return sum(
                connection.execute(update(table).where(condition).values(**values)).rowcount
                for table, condition, values in wrong
            )


def _mends(now: float, lease_s: float, fetch_wait_s: float, learn_s: float) -> list[_Mend]:
    future = now + TOLERANCE_S
    job_waits = and_(
        jobs.c.state == JobState.READY.value, jobs.c.updated_at > future, jobs.c.not_before > now
    )
    due, sent = deliveries.c.state == DeliveryState.DUE.value, deliveries.c.state == DeliveryState.SENT.value
    asked_later = commitment_requests.c.asked_at > future
    written_later = deliveries.c.updated_at > future
    return [
        # The quiet time begins anew: how long ago the last instance came, nobody knows any more.
        (studies, studies.c.last_received_at > future, {"last_received_at": now}),
        (jobs, job_waits, {"not_before": now, "updated_at": now}),
        (
            jobs,
            and_(jobs.c.state == JobState.RUNNING.value, jobs.c.lease_until > future + lease_s),
            {"lease_until": now + lease_s},
        ),
        (
            deliveries,
            and_(due, written_later, deliveries.c.next_attempt_at > now),
            {"next_attempt_at": now, "updated_at": now},
        ),
        (
            deliveries,
            and_(sent, written_later, deliveries.c.confirm_at > now),
            {"confirm_at": now, "updated_at": now},
        ),
        (deliveries, deliveries.c.lease_until > future + lease_s, {"lease_until": now + lease_s}),
        # Else it would be tried for longer than `delivery.give_up_after_hours`.
        (deliveries, deliveries.c.first_failed_at > future, {"first_failed_at": now}),
        (fetches, fetches.c.due_at > future + fetch_wait_s, {"due_at": now}),
        (offers, offers.c.ask_at > future + learn_s, {"ask_at": now}),
        (archive_counts, archive_counts.c.asked_at > future, {"asked_at": now, "since": now}),
        (archive_askings, archive_askings.c.asked_at > future, {"asked_at": now}),
        (
            commitment_requests,
            and_(commitment_requests.c.due_at > now, asked_later),
            {"due_at": now, "asked_at": now},
        ),
    ]
