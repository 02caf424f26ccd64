"""What the senders of studies let one conclude: whether they have hung up, and how long they pause.

Rules for this file:
1. Only associations that stored something are listed, and only for some days.
2. A pause is a habit of its sender: the ledger notes it, `study/patience.py` decides what follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, bindparam, delete, func, insert, or_, select, update

from dicomnode.ledger.database import Database
from dicomnode.ledger.schema import AnsweredWith, PauseKind, associations, instances, pauses
from dicomnode.records import AssociationNews, SenderHabits

SHORTEST_PAUSE_S = 2.0
"""A shorter pause is the ordinary time between two images."""
LONGEST_PAUSE_S = 3600.0
"""What comes later than that was not left out by a pause."""
_REMEMBERED_S = 30 * 86_400.0
_READ_PAUSES = 100
_COUNTED_STUDIES = 3

# Asked for every waiting study whenever something came: put together once, an answer takes a third of the
# time.
_PAUSES_OF = and_(
    pauses.c.calling_ae == bindparam("calling_ae"),
    pauses.c.peer_host == bindparam("peer_host"),
    pauses.c.kind == bindparam("kind"),
)
_LATELY = (
    select(pauses.c.pause_s).where(_PAUSES_OF).order_by(pauses.c.id.desc()).limit(_READ_PAUSES).subquery()
)
_LONGEST_PAUSE = select(func.max(_LATELY.c.pause_s)).where(_LATELY.c.pause_s <= bindparam("limit_s"))
_COUNTED = select(pauses.c.id).where(_PAUSES_OF).limit(_COUNTED_STUDIES).subquery()
_COUNT = select(func.count()).select_from(_COUNTED)
_SENDERS_OF = (
    select(instances.c.calling_ae, instances.c.peer_host)
    .where(instances.c.StudyInstanceUID == bindparam("StudyInstanceUID"))
    .distinct()
)
_ASSOCIATIONS_OF = and_(
    associations.c.calling_ae == bindparam("calling_ae"), associations.c.peer_host == bindparam("peer_host")
)
_STILL_OPEN = select(associations.c.id).where(_ASSOCIATIONS_OF, associations.c.ended_at.is_(None)).limit(1)
_NEWEST = select(associations).where(_ASSOCIATIONS_OF).order_by(associations.c.opened_at.desc()).limit(1)


class Pause(NamedTuple):
    """How long a sender paused before an image, and where in the study that was."""

    calling_ae: str
    peer_host: str
    kind: PauseKind
    pause_s: float


class Senders:
    """The part of the ledger that knows senders; each verb is one transaction and may raise `RetryLater`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, news: Sequence[AssociationNews]) -> None:
        """Note associations that stored their first instance, and such as ended, in their order."""
        with self._database.write() as connection:
            for item in news:
                row = {
                    "calling_ae": item.calling_ae,
                    "peer_host": item.peer_host,
                    "opened_at": item.opened_at,
                    "ended_at": item.ended_at,
                    "is_released": None if item.ended_at is None else int(item.is_released),
                }
                same = associations.c.id == item.association_id
                if connection.execute(update(associations).where(same).values(**row)).rowcount == 0:
                    connection.execute(insert(associations).values(id=item.association_id, **row))

    def break_off_open(self, now: float) -> int:
        """Note that no association is open any more: `receive` starts, and the one before died with them."""
        with self._database.write() as connection:
            are_open = associations.c.ended_at.is_(None)
            return connection.execute(
                update(associations).where(are_open).values(ended_at=now, is_released=0)
            ).rowcount

    def habits_of_study(self, StudyInstanceUID: str, limit_s: float) -> SenderHabits:
        """Return what the senders of a study's images let one conclude.

        Pauses longer than `limit_s` count only between series: no study waits for so long within one.
        """
        with self._database.read() as connection:
            senders_of_study = _senders_of(connection, StudyInstanceUID)
            longest = {
                kind: max(
                    (_longest_pause(connection, *sender, kind, limit_s) for sender in senders_of_study),
                    default=0.0,
                )
                for kind in PauseKind
            }
            longest_at_all = max(
                (
                    _longest_pause(connection, *sender, PauseKind.BETWEEN_SERIES, LONGEST_PAUSE_S)
                    for sender in senders_of_study
                ),
                default=0.0,
            )
            return SenderHabits(
                is_sending=any(_is_sending(connection, *sender) for sender in senders_of_study),
                has_released=bool(senders_of_study)
                and all(_has_released(connection, *sender) for sender in senders_of_study),
                pause_while_open_s=longest[PauseKind.ASSOCIATION_OPEN],
                pause_within_series_s=longest[PauseKind.WITHIN_SERIES],
                pause_between_series_s=longest_at_all,
                too_late_for_one_s=longest[PauseKind.TOO_LATE_FOR_ONE],
                too_late_for_both_s=longest[PauseKind.TOO_LATE_FOR_BOTH],
                studies_with_one=min(
                    (_answered(connection, *sender, AnsweredWith.ONE) for sender in senders_of_study),
                    default=0,
                ),
                has_sent_both=any(
                    _answered(connection, *sender, AnsweredWith.BOTH) for sender in senders_of_study
                ),
            )

    def forget_old(self, now: float) -> int:
        """Remove what is too old to be a habit; return how many rows that were."""
        before = now - _REMEMBERED_S
        with self._database.write() as connection:
            return sum(
                connection.execute(delete(table).where(condition)).rowcount
                for table, condition in (
                    (associations, associations.c.ended_at < before),
                    (pauses, pauses.c.at < before),
                )
            )


def note_pauses(connection: Connection, noticed: Iterable[Pause], now: float) -> None:
    """Note pauses; of several of one sender and kind the longest."""
    longest: dict[tuple[str, str, PauseKind], float] = {}
    for pause in noticed:
        key = (pause.calling_ae, pause.peer_host, pause.kind)
        longest[key] = max(pause.pause_s, longest.get(key, 0.0))
    for (calling_ae, peer_host, kind), pause_s in longest.items():
        connection.execute(
            insert(pauses).values(
                calling_ae=calling_ae, peer_host=peer_host, kind=kind.value, pause_s=pause_s, at=now
            )
        )


def had_open_association(
    connection: Connection, calling_ae: str, peer_host: str, since: float, until: float
) -> bool:
    """Return whether a sender had one association open the whole time."""
    whole_time = select(associations.c.id).where(
        associations.c.calling_ae == calling_ae,
        associations.c.peer_host == peer_host,
        associations.c.opened_at <= since,
        or_(associations.c.ended_at.is_(None), associations.c.ended_at >= until),
    )
    return (
        connection.execute(whole_time.order_by(associations.c.opened_at.desc()).limit(1)).first() is not None
    )


def note_roles(connection: Connection, job: Row[Any], roles: int, now: float) -> None:
    """Note for each sender of a study from how many of T1 and FLAIR it is to be answered.

    One that is answered anew from one image alone was counted before.
    """
    if not roles or (roles == 1 and job.revision > 1):
        return
    kind = (AnsweredWith.ONE if roles == 1 else AnsweredWith.BOTH).value
    for calling_ae, peer_host in _senders_of(connection, job.StudyInstanceUID):
        connection.execute(
            insert(pauses).values(calling_ae=calling_ae, peer_host=peer_host, kind=kind, pause_s=0.0, at=now)
        )


def _senders_of(connection: Connection, StudyInstanceUID: str) -> list[tuple[str, str]]:
    pairs = connection.execute(_SENDERS_OF, {"StudyInstanceUID": StudyInstanceUID})
    return [(row.calling_ae, row.peer_host) for row in pairs]


def _answered(connection: Connection, calling_ae: str, peer_host: str, kind: AnsweredWith) -> int:
    """Count a sender's studies that were answered so, up to as many as make a habit."""
    sender = {"calling_ae": calling_ae, "peer_host": peer_host, "kind": kind.value}
    return int(connection.execute(_COUNT, sender).scalar_one())


def _longest_pause(
    connection: Connection, calling_ae: str, peer_host: str, kind: PauseKind, limit_s: float
) -> float:
    asked = {"calling_ae": calling_ae, "peer_host": peer_host, "kind": kind.value, "limit_s": limit_s}
    return float(connection.execute(_LONGEST_PAUSE, asked).scalar_one() or 0.0)


def _is_sending(connection: Connection, calling_ae: str, peer_host: str) -> bool:
    sender = {"calling_ae": calling_ae, "peer_host": peer_host}
    return connection.execute(_STILL_OPEN, sender).first() is not None


def _has_released(connection: Connection, calling_ae: str, peer_host: str) -> bool:
    """Return whether every association of a sender has ended, the newest one by release."""
    row = connection.execute(_NEWEST, {"calling_ae": calling_ae, "peer_host": peer_host}).one_or_none()
    return row is not None and row.is_released == 1 and not _is_sending(connection, calling_ae, peer_host)
