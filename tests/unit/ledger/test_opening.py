"""Opening: migrated to the newest tables, by two processes at once, refused with a sentence when it cannot be."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from dicomnode.errors import RetryLater, StartError
from dicomnode.ledger.database import Database
from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.schema import metadata
from tests.factories.ledger import STUDY, LedgerStory, received, sqlite_url


def test_the_migrations_build_exactly_the_tables_of_the_schema(url: str, ledger: Ledger) -> None:
    ledger.add_instance(received(1))
    engine = create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        partial = connection.execute(text("SELECT sql FROM sqlite_master WHERE name = 'ix_instances_unread'")).scalar_one()
    engine.dispose()
    assert "WHERE reading = 'new'" in partial


def test_every_table_can_be_made_on_postgresql() -> None:
    dialect = postgresql.dialect()
    statements = [str(CreateTable(table).compile(dialect=dialect)) for table in metadata.sorted_tables]
    indexes = [str(CreateIndex(index).compile(dialect=dialect)) for table in metadata.sorted_tables for index in table.indexes]
    assert len(statements) == 6
    assert all("SERIAL" in statement or "studies" in statement for statement in statements)
    assert any("WHERE reading = 'new'" in index for index in indexes)


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
    before = ledger.study_history(STUDY)
    ledger.close()
    again = Ledger.open(url)
    assert again.study_history(STUDY) == before
    again.close()


def test_processes_that_open_a_new_ledger_at_once_both_succeed(url: str, tmp_path: Path) -> None:
    script = "import sys; from dicomnode.ledger.ledger import Ledger; sys.stdin.read(1); Ledger.open(sys.argv[1]).close()"
    command = [sys.executable, "-c", script, url]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    errors = [process.communicate()[1] if process.stdin is None else process.stderr.read() for process in processes if process.stderr]
    assert [process.wait() for process in processes] == [0, 0, 0], errors
    for process in processes:
        assert process.stderr is not None
        process.stderr.close()


def test_a_read_sees_one_moment(url: str, ledger: Ledger) -> None:
    database = Database(url)
    with database.read() as connection:
        before = connection.execute(text("SELECT count(*) FROM instances")).scalar_one()
        ledger.add_instance(received(1))
        after = connection.execute(text("SELECT count(*) FROM instances")).scalar_one()
    database.close()
    assert (before, after) == (0, 0)


def test_a_ledger_that_stays_locked_asks_to_be_tried_again(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomnode.ledger.database._PRAGMAS", ("PRAGMA busy_timeout = 50",))
    impatient = Ledger.open(sqlite_url(tmp_path))
    holder = sqlite3.connect(tmp_path / "ledger.sqlite3", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(RetryLater, match="locked"):
        impatient.add_instance(received(1))
    holder.execute("ROLLBACK")
    holder.close()
    assert impatient.add_instance(received(1)) == "new"
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
