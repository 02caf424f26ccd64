"""What became of each study, in a narrow row of its own: what statistics are made of.

A row outlives its study, then without its UID: retention removes images and reports after days, statistics
look back over a year.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from dicomnode.ledger.database import Database
from dicomnode.ledger.encoding import from_json, to_json
from dicomnode.ledger.schema import answers, studies
from dicomnode.states import Outcome

KEEP_S = 400 * 86_400.0
"""For how long the row of a study that is gone is kept."""

_MEASURED = (Outcome.LESIONS, Outcome.NEGATIVE)


@dataclass(frozen=True)
class AnswerFigures:
    """The answers to studies whose last image came within some time.

    Attributes
    ----------
    counts
        (outcome, code of a refusal or "") -> studies.
    times
        When the last image came and when the study was answered, seconds since the epoch.
        They are in the order of the first.
    volumes_ml
        Volume of all lesions of each study that has some.
    """

    counts: Mapping[tuple[str, str], int]
    times: Sequence[tuple[float, float]]
    volumes_ml: Sequence[float]


class Answers:
    """The part of the ledger that statistics read.

    Each verb is one transaction and may raise `RetryLater`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def figures(self, since: float) -> AnswerFigures:
        """Return the figures of the studies whose last image came at or after a time.

        An index holds all of them.
        """
        lately = answers.c.received_at >= since
        # The index of outcomes is not to be taken for it: it does not hold the time.
        outcome = func.coalesce(answers.c.outcome, "")
        counted = select(outcome, answers.c.code, func.count()).where(lately)
        times = select(answers.c.received_at, answers.c.answered_at).where(lately)
        volumes = select(answers.c.lesions_ml).where(lately, answers.c.lesions_ml > 0)
        with self._database.read() as connection:
            groups = connection.execute(counted.group_by(outcome, answers.c.code)).all()
            return AnswerFigures(
                {(row[0], row[1]): row[2] for row in groups},
                [(row[0], row[1]) for row in connection.execute(times.order_by(answers.c.received_at))],
                list(connection.execute(volumes).scalars()),
            )

    def forget_old(self, now: float) -> int:
        """Remove the rows of studies that are gone and came more than `KEEP_S` ago; return how many."""
        is_old = answers.c.StudyInstanceUID.is_(None) & (answers.c.received_at < now - KEEP_S)
        with self._database.write() as connection:
            return connection.execute(delete(answers).where(is_old)).rowcount


def note_answer(
    connection: Connection, StudyInstanceUID: str, outcome: Outcome, detail: Mapping[str, Any], now: float
) -> None:
    """Write what a study was answered, inside a transaction, in the place of its answer before.

    Without a new image the time of the first answer stays: an order to answer again makes no study slower.
    """
    received_at = connection.execute(
        select(studies.c.last_received_at).where(studies.c.StudyInstanceUID == StudyInstanceUID)
    ).scalar_one()
    # As the ledger keeps it: a conclusion may hold records.
    texts = from_json(to_json(detail))
    lesions = texts.get("lesions", ()) if outcome in _MEASURED else None
    columns = {
        "received_at": received_at,
        "outcome": outcome.value,
        "code": str(texts.get("code", "")),
        "lesions_ml": None if lesions is None else sum(float(lesion["volume_ml"]) for lesion in lesions),
    }
    of_study = answers.c.StudyInstanceUID == StudyInstanceUID
    before = connection.execute(select(answers.c.received_at).where(of_study)).scalar_one_or_none()
    if before is None:
        connection.execute(
            insert(answers).values(StudyInstanceUID=StudyInstanceUID, answered_at=now, **columns)
        )
        return
    if before != received_at:
        columns["answered_at"] = now
    connection.execute(update(answers).where(of_study).values(**columns))


def part_from_study(connection: Connection, StudyInstanceUID: str) -> None:
    """Keep the answer of a study that is removed, without its UID, inside a transaction."""
    of_study = answers.c.StudyInstanceUID == StudyInstanceUID
    connection.execute(update(answers).where(of_study).values(StudyInstanceUID=None))
