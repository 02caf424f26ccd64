"""What is to be fetched from an archive for a study, and how many images the archive lists of its series."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import delete, insert, select, update

from dicomnode.ledger.database import Database
from dicomnode.ledger.events import add_event
from dicomnode.ledger.schema import archive_askings, archive_counts, fetches


class Fetches:
    """The part of the ledger that fetching works with.

    Each verb is one transaction and may raise `RetryLater`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def want(self, StudyInstanceUID: str, fetch_kind: str, now: float) -> bool:
        """Have something fetched, once per study; True while it is still to be done."""
        same_fetch = (fetches.c.StudyInstanceUID == StudyInstanceUID, fetches.c.what == fetch_kind)
        with self._database.write() as connection:
            row = connection.execute(select(fetches.c.due_at).where(*same_fetch)).one_or_none()
            if row is None:
                values = {
                    "StudyInstanceUID": StudyInstanceUID,
                    "what": fetch_kind,
                    "due_at": now,
                    "attempts": 0,
                    "detail": "",
                }
                connection.execute(insert(fetches).values(**values))
                return True
            return row.due_at is not None

    def due(self, now: float) -> list[tuple[str, str, int]]:
        """Return (Study Instance UID, what, tries so far) of what is to be fetched now.

        The longest due first.
        """
        due = select(fetches).where(fetches.c.due_at <= now).order_by(fetches.c.due_at)
        with self._database.read() as connection:
            return [(row.StudyInstanceUID, row.what, row.attempts) for row in connection.execute(due)]

    def record(
        self, StudyInstanceUID: str, fetch_kind: str, detail: str, now: float, due_at: float | None = None
    ) -> None:
        """Note what came of a try; without `due_at` that was the last one. It need not have been wanted."""
        same_fetch = (fetches.c.StudyInstanceUID == StudyInstanceUID, fetches.c.what == fetch_kind)
        values = {"attempts": fetches.c.attempts + 1, "detail": detail, "due_at": due_at}
        with self._database.write() as connection:
            if connection.execute(update(fetches).where(*same_fetch).values(**values)).rowcount == 0:
                row = {
                    "StudyInstanceUID": StudyInstanceUID,
                    "what": fetch_kind,
                    "attempts": 1,
                    "detail": detail,
                    "due_at": due_at,
                }
                connection.execute(insert(fetches).values(**row))
            add_event(
                connection,
                StudyInstanceUID,
                "fetched" if due_at is None else "fetch-delayed",
                {"what": fetch_kind, "result": detail},
                now,
            )

    def counted_at(self, StudyInstanceUID: str) -> float | None:
        """Return when the archive was last asked how many images it lists of a study."""
        asking = select(archive_askings.c.asked_at).where(
            archive_askings.c.StudyInstanceUID == StudyInstanceUID
        )
        with self._database.read() as connection:
            asked_at: float | None = connection.execute(asking).scalar_one_or_none()
            return asked_at

    def note_counts(self, StudyInstanceUID: str, counts: Mapping[str, int], now: float) -> None:
        """Note how many images an archive lists per series."""
        of_study = archive_counts.c.StudyInstanceUID == StudyInstanceUID
        with self._database.write() as connection:
            last = {
                row.SeriesInstanceUID: row
                for row in connection.execute(select(archive_counts).where(of_study))
            }
            connection.execute(delete(archive_counts).where(of_study))
            for series, count in counts.items():
                before = last.get(series)
                since = before.since if before is not None and before.instances == count else now
                row = {
                    "SeriesInstanceUID": series,
                    "StudyInstanceUID": StudyInstanceUID,
                    "instances": count,
                    "since": since,
                    "asked_at": now,
                }
                connection.execute(insert(archive_counts).values(**row))

    def note_asked(self, StudyInstanceUID: str, now: float) -> None:
        """Note that an archive was asked, whatever it said.

        An archive that lists nothing, or is away, is not asked again at once.
        """
        of_study = archive_askings.c.StudyInstanceUID == StudyInstanceUID
        with self._database.write() as connection:
            if connection.execute(update(archive_askings).where(of_study).values(asked_at=now)).rowcount == 0:
                connection.execute(
                    insert(archive_askings).values(StudyInstanceUID=StudyInstanceUID, asked_at=now)
                )

    def counts(self, StudyInstanceUID: str, still_s: float) -> dict[str, int]:
        """Return the counts per series that did not change for `still_s`.

        An archive may be receiving the study itself.
        """
        stood = archive_counts.c.asked_at - archive_counts.c.since >= still_s
        of_study = select(archive_counts).where(archive_counts.c.StudyInstanceUID == StudyInstanceUID, stood)
        with self._database.read() as connection:
            return {row.SeriesInstanceUID: row.instances for row in connection.execute(of_study)}
