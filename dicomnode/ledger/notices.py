"""What people are to be told: noted once, sent until it arrives, over restarts.

Rules for this file:
1. A notice is one message for one address. A subject is noted again only after its condition has ended.
2. What became of studies is read from their diaries. How far is written down with the notices that come of
   it, in one transaction: a restart neither repeats nor forgets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from dicomnode.ledger.database import Database
from dicomnode.ledger.encoding import from_json
from dicomnode.ledger.figures import replace_value
from dicomnode.ledger.schema import events, figures, jobs, notices

_BEGAN_AT, _READ_UNTIL = "notices_began_at", "notices_read_until"
# Where several processes write, a diary line of a lower number may appear after one of a higher: so many are
# looked at again, when they are no older than this.
_LOOKED_BACK = 1000
_LOOKED_BACK_S = 3600.0
_REPORTED_EVENTS = ("encoded", "failed", "delivery-given-up")
# A wait that is longer than any was written by a clock that was set back.
_LONGEST_WAIT_S = 7200.0


@dataclass(frozen=True)
class StudyNews:
    """One line of a study's diary that somebody may be told of.

    `event` is the diary's word; `outcome` and `detail` are those of the study's answer, as it stands now.
    """

    StudyInstanceUID: str
    job_id: int
    event: str
    outcome: str
    reason: str
    destination: str
    detail: dict[str, Any]


@dataclass(frozen=True)
class NewNotice:
    """Something to tell: its kind, what it is about, and the sentence."""

    kind: str
    subject: str
    sentence: str


@dataclass(frozen=True)
class Notice:
    """One message for one address, by the hash of that address."""

    id: int
    channel: str
    target: str
    kind: str
    subject: str
    sentence: str
    noted_at: float
    attempts: int


class Notices:
    """The part of the ledger that remembers who is to be told what; each verb may raise `RetryLater`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note_news(
        self,
        channel: str,
        targets: Collection[str],
        notices_of: Callable[[StudyNews], Iterable[NewNotice]],
        now: float,
    ) -> int:
        """Read the diaries on from where the channel last stopped, and note what `notices_of` makes of them.

        A channel that is new begins now. Return how many notices that were.
        """
        with self._database.write() as connection:
            newest = connection.execute(select(func.max(events.c.id))).scalar_one() or 0
            read_until = _figure(connection, _READ_UNTIL, channel)
            if read_until is None:
                for name in (_BEGAN_AT, _READ_UNTIL):
                    replace_value(connection, name, channel, float(newest))
                return 0
            began_at, count = _figure(connection, _BEGAN_AT, channel) or 0, 0
            for news in _news(connection, began_at, read_until, now):
                for notice in notices_of(news):
                    count += _note(connection, channel, targets, notice, now)
            if newest > read_until:
                replace_value(connection, _READ_UNTIL, channel, float(newest))
            return count

    def note(self, channel: str, targets: Collection[str], notice: NewNotice, now: float) -> int:
        """Note something, unless it is noted already and has not ended.

        Returned is how many messages that makes.
        """
        with self._database.write() as connection:
            return _note(connection, channel, targets, notice, now)

    def standing(self, channel: str, kind: str) -> set[str]:
        """Return the subjects of a kind that were noted and have not ended."""
        of_kind = and_(notices.c.channel == channel, notices.c.kind == kind, notices.c.ended_at.is_(None))
        with self._database.read() as connection:
            return set(connection.execute(select(notices.c.subject).where(of_kind)).scalars())

    def end(self, channel: str, targets: Collection[str], notice: NewNotice, now: float) -> None:
        """Note that something is over, with the sentence that says so.

        What was not sent yet is not sent any more.
        """
        with self._database.write() as connection:
            standing = and_(
                notices.c.channel == channel,
                notices.c.kind == notice.kind,
                notices.c.subject == notice.subject,
                notices.c.ended_at.is_(None),
            )
            informed_targets = set(
                connection.execute(
                    select(notices.c.target).where(standing, notices.c.told_at.is_not(None))
                ).scalars()
            )
            connection.execute(update(notices).where(standing).values(ended_at=now, due_at=None))
            if notice.sentence:
                recipients = [target for target in targets if target in informed_targets]
                _insert(connection, channel, recipients, notice, now, ended=True)

    def due(self, now: float) -> list[Notice]:
        """Return what is to be sent now, the oldest first."""
        waits = or_(notices.c.due_at <= now, notices.c.due_at > now + _LONGEST_WAIT_S)
        names = ("id", "channel", "target", "kind", "subject", "sentence", "noted_at", "attempts")
        with self._database.read() as connection:
            rows = connection.execute(select(notices).where(waits).order_by(notices.c.id)).all()
            return [Notice(**{name: getattr(row, name) for name in names}) for row in rows]

    def record(self, ids: Sequence[int], now: float, *, arrived: bool, retry_at: float | None = None) -> None:
        """Note what became of messages: told, to be tried again at a time, or (neither) given up."""
        values = {"told_at": now, "due_at": None} if arrived else {"due_at": retry_at}
        with self._database.write() as connection:
            connection.execute(
                update(notices).where(notices.c.id.in_(ids)).values(attempts=notices.c.attempts + 1, **values)
            )

    def forget(self, before: float) -> int:
        """Remove what was noted before a time and waits for nothing; return how many rows."""
        settled = and_(
            notices.c.noted_at < before,
            notices.c.due_at.is_(None),
            # What stands is known by its row.
            or_(
                notices.c.ended_at.is_not(None),
                notices.c.kind.in_(("failed", "refused", "lesions", "given-up")),
            ),
        )
        with self._database.write() as connection:
            return int(connection.execute(delete(notices).where(settled)).rowcount)


def _figure(connection: Connection, name: str, channel: str) -> int | None:
    value = connection.execute(
        select(figures.c.value).where(figures.c.name == name, figures.c.label == channel)
    ).scalar_one_or_none()
    return None if value is None else int(value)


def _news(connection: Connection, began_at: int, read_until: int, now: float) -> list[StudyNews]:
    fresh = or_(
        events.c.id > read_until,
        and_(events.c.id > read_until - _LOOKED_BACK, events.c.at > now - _LOOKED_BACK_S),
    )
    lines = connection.execute(
        select(events)
        .where(events.c.what.in_(_REPORTED_EVENTS), events.c.id > began_at, fresh)
        .order_by(events.c.id)
    ).all()
    news = []
    for line in lines:
        detail = from_json(line.detail)
        job = connection.execute(select(jobs).where(jobs.c.id == detail.get("job_id"))).one_or_none()
        if job is None:
            newest = select(jobs).where(jobs.c.StudyInstanceUID == line.StudyInstanceUID)
            job = connection.execute(newest.order_by(jobs.c.revision.desc()).limit(1)).one_or_none()
        if job is not None:
            news.append(
                StudyNews(
                    line.StudyInstanceUID,
                    job.id,
                    line.what,
                    detail.get("outcome") or job.outcome or "",
                    detail.get("reason") or job.reason,
                    detail.get("destination", ""),
                    from_json(job.detail),
                )
            )
    return news


def _note(
    connection: Connection, channel: str, targets: Collection[str], notice: NewNotice, now: float
) -> int:
    same_subject = and_(
        notices.c.channel == channel,
        notices.c.kind == notice.kind,
        notices.c.subject == notice.subject,
        notices.c.ended_at.is_(None),
    )
    informed_targets = set(connection.execute(select(notices.c.target).where(same_subject)).scalars())
    # An address that is new in the file is not told of what the others were told before.
    return 0 if informed_targets else _insert(connection, channel, targets, notice, now)


def _insert(
    connection: Connection,
    channel: str,
    targets: Collection[str],
    notice: NewNotice,
    now: float,
    *,
    ended: bool = False,
) -> int:
    rows = [
        {
            "channel": channel,
            "target": target,
            "kind": notice.kind,
            "subject": notice.subject,
            "sentence": notice.sentence,
            "noted_at": now,
            "due_at": now,
            "attempts": 0,
            "ended_at": now if ended else None,
        }
        for target in targets
    ]
    if rows:
        connection.execute(insert(notices), rows)
    return len(rows)
