"""Opening: migrated to the newest tables, by two processes at once, refused with a sentence when it cannot be."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import ClauseElement, Engine, create_engine, event, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from dicomnode.errors import RetryLater, StartError
from dicomnode.ledger.database import Database
from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.schema import metadata
from dicomnode.ledger.shown import plain
from dicomnode.states import DeliveryState
from tests.factories.ledger import STUDY, LedgerStory, received, release_owner, sqlite_url

PAGE_BYTES = 4096


def test_the_migrations_build_exactly_the_tables_of_the_schema(url: str, ledger: Ledger) -> None:
    ledger.instances.add(received(1))
    engine = create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        partial = connection.execute(
            text("SELECT sql FROM sqlite_master WHERE name = 'ix_instances_unread'")
        ).scalar_one()
    engine.dispose()
    assert "WHERE reading = 'new'" in partial


def test_every_table_can_be_made_on_postgresql() -> None:
    dialect = postgresql.dialect()
    statements = [str(CreateTable(table).compile(dialect=dialect)) for table in metadata.sorted_tables]
    indexes = [
        str(CreateIndex(index).compile(dialect=dialect))
        for table in metadata.sorted_tables
        for index in table.indexes
    ]
    named = ("studies", "transactions", "fetches", "archive_askings", "archive_counts", "offers", "figures")
    named += ("associations", "senders")
    assert len(statements) == 18
    assert all("SERIAL" in statement or any(name in statement for name in named) for statement in statements)
    assert any("WHERE reading = 'new'" in index for index in indexes)


def test_every_statement_of_a_life_can_be_said_to_postgresql(story: LedgerStory) -> None:
    """No server here: each statement is at least translated, and the claims must skip what another process holds."""
    said: list[Any] = []
    note = lambda _connection, statement, *_: said.append(statement)  # noqa: E731
    event.listen(Engine, "before_execute", note)
    try:
        live(story)
    finally:
        event.remove(Engine, "before_execute", note)
    translated = {
        str(statement.compile(dialect=postgresql.dialect()))
        for statement in said
        if isinstance(statement, ClauseElement)
    }
    assert len(translated) > 50
    claims = [statement for statement in translated if "SKIP LOCKED" in statement]
    assert {statement.split("FROM ")[1].split()[0] for statement in claims} == {"jobs", "deliveries"}


def live(story: LedgerStory) -> None:
    """Take a study through every verb of the ledger."""
    ledger = story.ledger
    story.encoded()
    story.receive(1, 2)
    story.receive(1, content="other")
    story.receive(7)
    ledger.instances.record_unreadable(ledger.instances.unindexed(10)[-1][0], "not DICOM", 41)
    story.index()
    ledger.jobs.renew(1, "work:1", 41, 60)
    ledger.deliveries.due_destinations(41)
    seg, sr = ledger.deliveries.claim("d", 41, 60, 10, destination="pacs")
    ledger.deliveries.renew("d", 42, 60)
    ledger.deliveries.record(seg.id, DeliveryState.SENT, "0x0000", 42)
    ledger.deliveries.record(sr.id, DeliveryState.DUE, "no answer", 42, 47)
    ledger.jobs.retry(STUDY, 43)
    ledger.jobs.retry(STUDY, 44, rerun=True)
    job = ledger.jobs.claim("work:1", 45, 60)
    assert job is not None
    ledger.jobs.release(job.id, "work:1", "died", 46, 47)
    job = ledger.jobs.claim("work:1", 47, 60)
    assert job is not None
    release_owner(ledger, "work:1", 48)
    ledger.jobs.close_delivered(49)
    ledger.instances.last_received_at(STUDY)
    ledger.history.add_event(STUDY, "seen", {}, 50)
    story.waiting(99)
    plain(ledger.history.studies())
    plain(ledger.history.of_study(STUDY))
    plain(ledger.history.health())
    ledger.offers.learn("pacs", "PACS@a:1", {}, 50, 60)
    ledger.offers.postpone("pacs", "PACS@a:1", 70)
    ledger.offers.ask_again("pacs", 50)
    ledger.deliveries.given_up_in_another_form("pacs", ("seg",), 50)
    ledger.retention.expired_studies(50)
    ledger.retention.expired_unreadable(50)
    ledger.retention.expire_unreadable("nowhere", 50, set.clear)
    ledger.retention.expire_study(STUDY, 50, set.clear)


def test_a_writer_waits_for_the_other_process_and_no_longer(ledger: Ledger, tmp_path: Path) -> None:
    holder = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    release = threading.Timer(0.3, holder.execute, ("ROLLBACK",))
    release.start()
    assert ledger.instances.add(received(1)) == "new"
    waited_s = time.monotonic() - began
    release.join()
    holder.close()
    assert 0.29 < waited_s < 10


def test_the_file_is_set_up_for_two_processes(url: str, ledger: Ledger, tmp_path: Path) -> None:
    database = Database(url)
    with database.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    database.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 20_000}


def test_a_ledger_remembers_when_opened_again(url: str) -> None:
    ledger = Ledger.open(url)
    LedgerStory(ledger).encoded()
    before = plain(ledger.history.of_study(STUDY))
    ledger.close()
    again = Ledger.open(url)
    assert plain(again.history.of_study(STUDY)) == before
    again.close()


@pytest.mark.slow
def test_processes_that_open_a_new_ledger_at_once_all_succeed(url: str) -> None:
    # Imports first, so that the opening itself coincides: they start at the closing of their common input.
    script = "import sys; from dicomnode.ledger.ledger import Ledger; sys.stdin.read(); Ledger.open(sys.argv[1]).close()"
    gate, hold = os.pipe()
    processes = [
        subprocess.Popen([sys.executable, "-c", script, url], stdin=gate, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    os.close(gate)
    os.close(hold)
    assert [(process.communicate(timeout=60)[1], process.returncode) for process in processes] == [
        ("", 0)
    ] * 3


def test_a_read_sees_one_moment(url: str, ledger: Ledger) -> None:
    database = Database(url)
    with database.read() as connection:
        before = connection.execute(text("SELECT count(*) FROM instances")).scalar_one()
        ledger.instances.add(received(1))
        after = connection.execute(text("SELECT count(*) FROM instances")).scalar_one()
    database.close()
    assert (before, after) == (0, 0)


def test_a_ledger_that_stays_locked_asks_to_be_tried_again(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.ledger.database._PRAGMAS", ("PRAGMA busy_timeout = 50",))
    impatient = Ledger.open(sqlite_url(tmp_path))
    holder = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(RetryLater, match="locked"):
        impatient.instances.add(received(1))
    holder.execute("ROLLBACK")
    holder.close()
    assert impatient.instances.add(received(1)) == "new"
    impatient.close()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("nonsense", "storage.ledger_url"),
        ("oraclf://host/name", "storage.ledger_url"),
        ("sqlite:////proc/nowhere/ledger.sqlite3", "cannot be made"),
    ],
)
def test_a_wrong_url_stops_the_start_with_a_sentence(url: str, sentence: str) -> None:
    with pytest.raises(StartError, match=sentence):
        Ledger.open(url)


def test_a_file_that_is_no_ledger_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").write_bytes(b"this is a text and no database" * 100)
    with pytest.raises(StartError, match="cannot be opened"):
        Ledger.open(sqlite_url(tmp_path))


def test_a_ledger_of_a_newer_version_stops_the_start(ledger: Ledger, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.sqlite3") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StartError, match="another version of dicomnode"):
        Ledger.open(sqlite_url(tmp_path))


def test_the_folder_of_a_new_ledger_is_private(tmp_path: Path) -> None:
    Ledger.open(sqlite_url(tmp_path / "state")).close()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["deliveries", "events", "instances"])
def test_a_ledger_without_a_table_is_named_at_the_start(tmp_path: Path, name: str) -> None:
    Ledger.open(sqlite_url(tmp_path)).close()
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as connection:
        connection.execute(f"DROP TABLE {name}")
    with pytest.raises(StartError, match=f"the ledger lacks {name}: restore it"):
        Ledger.open(sqlite_url(tmp_path))


@pytest.mark.parametrize("seed", range(30))
def test_damaged_pages_are_named_with_what_to_do(ledger: Ledger, tmp_path: Path, seed: int) -> None:
    """Whatever pages are overwritten: a start or a question that meets them says so, and raises nothing else."""
    for number in range(300):
        ledger.instances.add(received(number))
    ledger.close()
    file = tmp_path / "ledger.sqlite3"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content, random = bytearray(file.read_bytes()), Random(seed)
    pages = len(content) // PAGE_BYTES
    for page in random.sample(range(1, pages), random.choice([1, 4, pages // 2, pages - 1])):
        begin = page * PAGE_BYTES
        content[begin : begin + PAGE_BYTES] = random.choice([b"\xff", b"\0", b"\x0d"]) * PAGE_BYTES
    file.write_bytes(content)

    said = []
    try:
        damaged = Ledger.open(sqlite_url(tmp_path))
    except StartError as problem:
        said.append(str(problem))
    else:
        for question in (
            lambda: list(damaged.instances.paths_below("incoming")),
            lambda: damaged.instances.add(received(1000)),
            damaged.history.studies,
            damaged.history.health,
            lambda: damaged.instances.unindexed(100),
        ):
            try:
                question()
            except RetryLater as problem:
                said.append(str(problem))
        damaged.close()

    assert all("ledger" in words for words in said)
    if any("malformed" in words for words in said):
        assert any("move ledger.sqlite3* away" in words for words in said)
