"""The ledger is locked by another program, holds a row that makes no sense, is damaged as a whole, is of the first schema with work in flight."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from alembic.command import upgrade
from sqlalchemy import create_engine

from dicomnode.ledger.migrate import alembic_config
from dicomnode.simulator.archive import Archive
from tests.factories.hospital import LIGHT, QUICK, Hospital, Settle

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]

LOCKS = 3
LOCKED_S = 4.0


def wait_for_jobs(ledger: Path, count: int, timeout_s: float = 300.0) -> None:
    """Wait until so many studies have a job."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with sqlite3.connect(ledger, timeout=30) as connection:
            if connection.execute("SELECT count(*) FROM jobs").fetchone()[0] >= count:
                return
        time.sleep(0.3)
    pytest.fail("the studies have no jobs")


def hold(ledger: Path, stop: threading.Event, held: list[float]) -> None:
    """Take the whole ledger for itself several times, as a backup program that copies it does."""
    for _ in range(LOCKS):
        if stop.wait(1.0):
            return
        connection = sqlite3.connect(ledger, timeout=60, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(LOCKED_S)
        connection.execute("ROLLBACK")
        connection.close()
        held.append(LOCKED_S)


def test_a_locked_ledger_delays_and_loses_nothing(tmp_path: Path, settle: Settle) -> None:
    held: list[float] = []
    stop = threading.Event()
    # A study must not be taken as it is while its images wait for the lock.
    settings = QUICK.replace("quiet_s = 3", "quiet_s = 15") + LIGHT
    with Archive(tmp_path / "pacs") as archive, Hospital(tmp_path, archive, settings) as hospital:
        studies = [hospital.write(f"locked {number}") for number in range(3)]
        hospital.node.port()
        holder = threading.Thread(target=hold, args=(hospital.node.root / "ledger.sqlite3", stop, held))
        holder.start()
        for files in studies:
            hospital.push(files)
        holder.join()
        hospital.wait_answered()
        counts = hospital.count()
        hospital.node.check()

    settle("ledger locked for 4 s", len(held), counts)
    assert len(held) == LOCKS


def test_a_row_that_makes_no_sense_stops_no_other_study(tmp_path: Path) -> None:
    with Archive(tmp_path / "pacs") as archive, Hospital(tmp_path, archive) as hospital:
        hospital.node.port()
        ledger = hospital.node.root / "ledger.sqlite3"
        hospital.node.kill("work")
        hospital.push(hospital.write("damaged row"))
        hospital.node.start("work")
        wait_for_jobs(ledger, 1)
        hospital.node.kill("work")
        with sqlite3.connect(ledger) as connection:
            connection.execute("UPDATE jobs SET state = 'n0nsense', owner = NULL, lease_until = NULL")
        hospital.push(hospital.write("sound row"))
        hospital.node.start("work")
        end = time.monotonic() + 300
        while time.monotonic() < end and not hospital.reports()[hospital.studies[1]]:
            time.sleep(0.5)
        hospital.node.check()
        reports = hospital.reports()
        command = [
            sys.executable,
            "-m",
            "dicomnode",
            "why",
            hospital.studies[0],
            "--config",
            str(hospital.node.config),
        ]
        told = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    assert reports[hospital.studies[1]] == 1
    assert "Traceback" not in told.stdout + told.stderr
    assert "n0nsense" in told.stdout + told.stderr


def test_a_damaged_ledger_is_named_and_made_again_from_the_spool(tmp_path: Path, settle: Settle) -> None:
    with Archive(tmp_path / "pacs") as archive, Hospital(tmp_path, archive) as hospital:
        hospital.node.port()
        hospital.node.kill("work")
        hospital.push(hospital.write("damaged ledger"))
        hospital.node.kill("receive")
        ledger = hospital.node.root / "ledger.sqlite3"
        # SQLite would mend the file from its log beside it.
        for file in hospital.node.root.glob("ledger.sqlite3-*"):
            file.unlink()
        ledger.write_bytes(b"\x00\xff" * 40_000)
        command = [sys.executable, "-m", "dicomnode", "receive", "--config", str(hospital.node.config)]
        refused = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        # What its message says.
        for file in hospital.node.root.glob("ledger.sqlite3*"):
            file.rename(file.with_name(f"damaged-{file.name}"))
        hospital.node.start("receive")
        hospital.node.port()
        hospital.node.start("work")
        hospital.wait_answered()
        counts = hospital.count()
        hospital.node.check()

    assert refused.returncode == 3
    assert "Traceback" not in refused.stderr
    assert "the ledger cannot be opened" in refused.stderr + refused.stdout
    settle("ledger overwritten with garbage", 1, counts)


def make_first_schema(ledger: Path) -> None:
    """Turn a ledger into one of revision 0001 with the same rows: what a node that was never updated has."""
    old = ledger.with_name("first.sqlite3")
    engine = create_engine(f"sqlite:///{old}")
    with engine.begin() as connection:
        upgrade(alembic_config(connection), "0001")
    engine.dispose()
    with sqlite3.connect(old) as connection:
        connection.execute("ATTACH ? AS new", (str(ledger),))
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")
            if name != "alembic_version"
        ]
        for table in tables:
            if table.startswith("sqlite_"):
                continue
            columns = ", ".join(
                f'"{row[1]}"' for row in connection.execute(f"PRAGMA main.table_info({table})")
            )
            connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
    for file in ledger.parent.glob(f"{ledger.name}*"):
        file.unlink()
    old.rename(ledger)


def test_a_ledger_of_the_first_schema_with_work_in_flight_is_carried_on(
    tmp_path: Path, settle: Settle
) -> None:
    archive = Archive(tmp_path / "pacs")
    archive.port = archive.start()
    archive.stop()
    with Hospital(tmp_path, archive) as hospital:
        hospital.node.port()
        ledger = hospital.node.root / "ledger.sqlite3"
        # One study is answered and not delivered, one is waiting for work, one was only received.
        hospital.push(hospital.write("undelivered"))
        end = time.monotonic() + 300
        while time.monotonic() < end and not list((hospital.node.root / "spool").rglob("results/**/*.dcm")):
            time.sleep(0.5)
        hospital.push(hospital.write("waiting"))
        wait_for_jobs(ledger, 2)
        hospital.node.kill("work")
        hospital.push(hospital.write("received"))
        hospital.node.kill("receive")
        make_first_schema(ledger)
        with archive:
            hospital.node.start("receive")
            hospital.node.start("work")
            hospital.node.port()
            hospital.wait_answered()
            counts = hospital.count()
            hospital.node.check()
    with sqlite3.connect(ledger) as connection:
        revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]

    settle("upgrade of a 0001 ledger with work in flight", 1, counts)
    assert revision > "0001"
