"""Every migration on a ledger that is full: not a row, a time or a state is lost, and the new version goes on where the old one stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from alembic.command import upgrade
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from dicomnode.commands.story import story
from dicomnode.ledger.database import Database
from dicomnode.ledger.encoding import header_to_json
from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.migrate import alembic_config
from dicomnode.ledger.shown import plain
from dicomnode.states import DeliveryState, JobState
from tests.factories.ledger import EXPLICIT_LITTLE, MR, SEG, SR, header, release_owner

Row = dict[str, Any]
REVISIONS = [
    script.revision
    for script in reversed(list(ScriptDirectory.from_config(alembic_config()).walk_revisions()))
]
# A study in each state that a job can have; beside "done" and "encoded" deliveries in each state of theirs.
STUDIES = {state.value: f"2.25.{number}" for number, state in enumerate(JobState, start=1)}


def _instance(number: int, study: str | None, reading: str) -> Row:
    row = {
        "id": number,
        "SOPInstanceUID": f"2.25.9.{number}",
        "sha256": f"{number:064x}",
        "arrival": 0,
        "SOPClassUID": MR,
    }
    where = {
        "path": f"incoming/{number}.dcm",
        "size_bytes": 2**33 + number,
        "calling_ae": "SCANNER",
        "peer_host": "10.0.0.7",
    }
    read: Row = {
        "StudyInstanceUID": None,
        "SeriesInstanceUID": None,
        "header": None,
        "unreadable_because": None,
        "indexed_at": None,
    }
    if study is not None:
        of_it = {
            "StudyInstanceUID": study,
            "SeriesInstanceUID": f"{study}.1",
            "header": header_to_json(header(number, study)),
        }
        read |= {**of_it, "indexed_at": 11.5}
    return {
        **row,
        **where,
        **read,
        "TransferSyntaxUID": EXPLICIT_LITTLE,
        "received_at": 10.25,
        "reading": reading,
    }


def _job(number: int, state: str, study: str) -> Row:
    row = {
        "id": number,
        "StudyInstanceUID": study,
        "revision": 1,
        "state": state,
        "attempts": 1,
        "reason": f"why it is {state}",
    }
    held = (
        {"owner": "work@old/1", "lease_until": 90.0}
        if state == "running"
        else {"owner": None, "lease_until": None}
    )
    times = {"not_before": 20.0, "created_at": 11.0, "updated_at": 30.0}
    return {
        **row,
        **held,
        **times,
        "outcome": "lesions" if state in ("encoded", "done") else None,
        "detail": '{"lesions":[]}',
    }


def _result(number: int, job: int, kind: str) -> Row:
    uid = {
        "SOPInstanceUID": f"2.25.77.{number}",
        "SOPClassUID": SEG if kind == "seg" else SR,
        "SeriesInstanceUID": f"2.25.70.{number}",
    }
    return {
        "id": number,
        "job_id": job,
        "kind": kind,
        "path": f"results/{number}.dcm",
        "sha256": f"{number:064x}",
        "created_at": 31.0,
        **uid,
    }


def _delivery(number: int, job: int, state: str, study: str) -> Row:
    row = {
        "id": number,
        "job_id": job,
        "result_id": number,
        "StudyInstanceUID": study,
        "destination": "pacs",
        "state": state,
    }
    held = (
        {"owner": "work@old/pacs", "lease_until": 90.0}
        if state == "sending"
        else {"owner": None, "lease_until": None}
    )
    times = {
        "next_attempt_at": 40.0,
        "first_failed_at": 35.5 if state == "given_up" else None,
        "updated_at": 41.0,
    }
    return {**row, **held, **times, "attempts": 2, "last_status": "0x0000: success"}


def _old_deliveries() -> Iterator[Row]:
    done, encoded = (list(STUDIES).index(state) + 1 for state in ("done", "encoded"))
    # Revision 0001 knew no proof: what was sent there had arrived.
    yield _delivery(1, done, "sent", STUDIES["done"])
    for number, state in enumerate(("due", "sending", "sent", "given_up", "withdrawn"), start=2):
        yield _delivery(number, encoded, state, STUDIES["encoded"])


OLD_DELIVERIES = list(_old_deliveries())
# What an old node had in the tables of each revision when it was upgraded.
FILLED: Mapping[str, Mapping[str, list[Row]]] = {
    "0001": {
        "studies": [
            {"StudyInstanceUID": uid, "first_received_at": 10.25, "last_received_at": 12.5}
            for uid in STUDIES.values()
        ],
        "instances": [
            *(_instance(number, uid, "indexed") for number, uid in enumerate(STUDIES.values(), start=1)),
            _instance(49, None, "new"),
            {**_instance(50, None, "unreadable"), "unreadable_because": "not-dicom: it is no DICOM file"},
        ],
        "jobs": [_job(number, state, uid) for number, (state, uid) in enumerate(STUDIES.items(), start=1)],
        "results": [
            _result(row["id"], row["job_id"], "seg" if row["id"] % 2 else "sr") for row in OLD_DELIVERIES
        ],
        "deliveries": OLD_DELIVERIES,
        "events": [
            {"id": 1, "StudyInstanceUID": "2.25.1", "at": 11.0, "what": "opened", "detail": '{"revision":1}'}
        ],
    },
    "0002": {
        "transactions": [
            {
                "TransactionUID": "2.25.5",
                "destination": "pacs",
                "asked_at": 42.0,
                "reported_at": None,
                "report": None,
            }
        ],
        "commitment_requests": [
            {
                "id": 1,
                "calling_ae": "SCANNER",
                "peer_host": "10.0.0.7",
                "TransactionUID": "2.25.6",
                "asked_for": "[]",
                "asked_at": 43.0,
                "due_at": 44.0,
                "attempts": 1,
                "last_status": "",
            }
        ],
    },
    "0003": {
        "fetches": [
            {
                "StudyInstanceUID": "2.25.1",
                "what": "series",
                "due_at": 45.0,
                "attempts": 1,
                "detail": "not fetched",
            }
        ],
        "archive_counts": [
            {
                "SeriesInstanceUID": "2.25.1.1",
                "StudyInstanceUID": "2.25.1",
                "instances": 3,
                "since": 46.0,
                "asked_at": 47.0,
            }
        ],
    },
    "0004": {
        "offers": [
            {
                "destination": "pacs",
                "address": "PACS@a:1",
                "accepted": '{"1.2":["1.2.840.10008.1.2"]}',
                "learned_at": 48.0,
                "ask_at": 49.0,
            }
        ]
    },
    # One column more for the destinations of 0004.
    "0005": {},
    # When an archive was last asked; revision 0006 moves what stood for it in `archive_counts`.
    "0006": {"archive_askings": [{"StudyInstanceUID": "2.25.2", "asked_at": 60.0}]},
    # An index.
    "0007": {},
    # A column for each of two tables.
    "0008": {},
    "0009": {"figures": [{"name": "outcomes", "label": "lesions", "value": 3.0}]},
    "0010": {
        "associations": [
            {
                "id": "a1",
                "calling_ae": "SCANNER",
                "peer_host": "10.0.0.7",
                "opened_at": 50.0,
                "ended_at": 60.0,
                "is_released": 1,
            }
        ],
        "senders": [{"calling_ae": "SCANNER", "peer_host": "10.0.0.7", "studies": 3}],
        "pauses": [
            {
                "id": 1,
                "calling_ae": "SCANNER",
                "peer_host": "10.0.0.7",
                "kind": "too_late_for_one",
                "pause_s": 20.0,
                "at": 60.0,
            }
        ],
    },
    "0011": {
        "notices": [
            {
                "id": 1,
                "channel": "mail",
                "target": "0123",
                "kind": "failed",
                "subject": "2.25.1",
                "sentence": "Study 2.25.1 failed.",
                "noted_at": 5.0,
                "due_at": 6.0,
                "told_at": None,
                "ended_at": None,
                "attempts": 1,
            }
        ]
    },
    "0012": {
        "answers": [
            {
                "id": 9,
                "StudyInstanceUID": None,
                "received_at": 5.0,
                "answered_at": 65.0,
                "outcome": "refused",
                "code": "no-flair",
                "lesions_ml": None,
            }
        ]
    },
    # An index.
    "0013": {},
    # Columns of the jobs.
    "0014": {},
}

# Rows that a revision itself puts into its new tables.
MOVED: dict[str, dict[str, list[Row]]] = {
    "0006": {"archive_askings": [{"StudyInstanceUID": "2.25.1", "asked_at": 47.0}]},
    "0012": {
        "answers": [
            {
                "id": number,
                "StudyInstanceUID": STUDIES[state],
                "received_at": 12.5,
                "answered_at": 31.0,
                "outcome": "lesions",
                "code": "",
                "lesions_ml": 0.0,
            }
            for number, state in enumerate(("encoded", "done"), start=1)
        ]
    },
}


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


def migrate_to(database: Database, revision: str) -> None:
    with database.write() as connection:
        upgrade(alembic_config(connection), revision)


def fill(database: Database, revision: str) -> None:
    """Put into the tables what a node of this revision had in those that it brought."""
    with database.write() as connection:
        for table, rows in FILLED[revision].items():
            columns = {column["name"] for column in inspect(connection).get_columns(table)}
            for row in rows:
                assert set(row) == columns
                names, values = ", ".join(f'"{name}"' for name in row), ", ".join(f":{name}" for name in row)
                connection.execute(text(f'INSERT INTO "{table}" ({names}) VALUES ({values})'), row)


def contents(connection: Connection, known: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """Return the rows of the known tables, with the columns that were known."""
    found = {}
    for table, rows in known.items():
        names = ", ".join(f'"{name}"' for name in rows[0])
        found[table] = [
            dict(row._mapping)
            for row in connection.execute(text(f'SELECT {names} FROM "{table}" ORDER BY 1'))
        ]
    return found


def test_every_revision_has_a_node_to_be_upgraded_from() -> None:
    assert list(FILLED) == REVISIONS, "a new migration: say in FILLED what its tables may hold"


def test_no_row_is_lost_or_changed_by_any_migration(database: Database) -> None:
    known: dict[str, list[Row]] = {}
    for revision in REVISIONS:
        migrate_to(database, revision)
        with database.read() as connection:
            assert contents(connection, known) == {
                table: sorted(rows, key=_first) for table, rows in known.items()
            }, revision
            tables = set(inspect(connection).get_table_names()) - {"alembic_version"}
        fill(database, revision)
        known |= FILLED[revision]
        for table, rows in MOVED.get(revision, {}).items():
            known[table] = [*known[table], *rows]
        assert tables == set(known)


def _first(row: Row) -> Any:
    return next(iter(row.values()))


@pytest.mark.parametrize("begun", REVISIONS)
def test_the_new_version_goes_on_where_the_old_one_stopped(database: Database, url: str, begun: str) -> None:
    for revision in REVISIONS[: REVISIONS.index(begun) + 1]:
        migrate_to(database, revision)
        fill(database, revision)
    database.close()

    ledger = Ledger.open(url)
    health = plain(ledger.history.health())
    assert health["jobs"] == dict.fromkeys(STUDIES, 1)
    assert {state: count for state, count in health["deliveries"].items() if count} == {
        **dict.fromkeys(("due", "sending", "given_up", "withdrawn"), 1),
        "sent": 2,
    }
    if begun >= "0004":
        offer = ledger.offers.known("pacs", "PACS@a:1")
        assert offer is not None
        assert list(offer.accepted) == ["1.2"]
        ledger.offers.refuse("pacs", "1.2", 50.0)
        assert list(ledger.offers.known("pacs", "PACS@a:1").accepted) == []  # type: ignore[union-attr]
    release_owner(ledger, "work@old/", 100)
    assert len(ledger.deliveries.claim("new", 100, 60, 10)) == 2
    assert ledger.confirmations.due_destinations(1e9) == []
    job = ledger.jobs.claim("new", 100, 60)
    assert job is not None
    assert job.StudyInstanceUID in (STUDIES["ready"], STUDIES["running"])
    # Of the old node's time nothing is asked after, and what was sent counts as it did.
    ledger.deliveries.record(2, DeliveryState.SENT, "0x0000", 101)
    ledger.deliveries.record(3, DeliveryState.SENT, "0x0000", 101)
    ledger.jobs.retry(STUDIES["encoded"], 102)
    [given_up] = ledger.deliveries.claim("new", 102, 60, 10)
    ledger.deliveries.record(given_up.id, DeliveryState.SENT, "0x0000", 103)
    assert ledger.jobs.close_delivered(104) == 1
    lines = list(story(ledger.history.of_study(STUDIES["encoded"])))
    assert any("seg to pacs: sent" in line for line in lines)
    ledger.close()


def test_when_an_archive_was_asked_moves_to_a_table_of_its_own(database: Database, url: str) -> None:
    for revision in REVISIONS[:5]:
        migrate_to(database, revision)
        fill(database, revision)
    columns = "'2.25.1', '2.25.1', 0, 47.5, 47.5"
    with database.write() as connection:
        connection.execute(text(f'INSERT INTO "archive_counts" VALUES ({columns})'))
    database.close()

    ledger = Ledger.open(url)
    assert ledger.fetches.counted_at("2.25.1") == 47.5
    assert ledger.fetches.counts("2.25.1", 0.0) == {"2.25.1.1": 3}
    ledger.close()


def test_answers_that_there_are_move_into_statistics(database: Database, url: str) -> None:
    for revision in REVISIONS[: REVISIONS.index("0012")]:
        migrate_to(database, revision)
        fill(database, revision)
    answered = 'UPDATE jobs SET outcome = :outcome, detail = :detail WHERE "StudyInstanceUID" = :uid'
    with database.write() as connection:
        for uid, outcome, detail in (
            (STUDIES["encoded"], "lesions", '{"lesions": [{"volume_ml": 2.5}, {"volume_ml": 1}]}'),
            (STUDIES["failed"], "refused", '{"code": "no-flair", "lesions": []}'),
            (STUDIES["superseded"], "negative", "{}"),
        ):
            connection.execute(text(answered), {"outcome": outcome, "detail": detail, "uid": uid})
    database.close()

    ledger = Ledger.open(url)
    figures = ledger.answers.figures(0.0)
    # The job that is done was answered with lesions from the first revision on, and lists none.
    assert figures.counts == {("lesions", ""): 2, ("refused", "no-flair"): 1}
    assert figures.volumes_ml == [3.5]
    story_of = ledger.history.of_study(STUDIES["encoded"])
    assert story_of is not None
    made_at = min(result.created_at for result in story_of.jobs[-1].results)
    assert (story_of.last_received_at, made_at) in figures.times
    ledger.close()
