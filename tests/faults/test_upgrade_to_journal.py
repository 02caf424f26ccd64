"""A node that wrote each instance as a file of its own, as 0.5.0 and before did, gets a journal with work in flight; and back again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dicomnode.simulator.archive import Archive
from dicomnode.simulator.node import Side
from tests.factories.hospital import Hospital, Settle
from tests.factories.journal import journaled_uids

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(900)]

STORAGE = "minimum_free_mb = 100\n"


def set_journal(hospital: Hospital, journal_mb: int | None) -> None:
    """Write the setting into the configuration of both sides; None: what is shipped."""
    config = hospital.node.config
    lines = [line for line in config.read_text().splitlines(keepends=True) if "journal_mb" not in line]
    setting = "" if journal_mb is None else f"journal_mb = {journal_mb}\n"
    config.write_text("".join(lines).replace(STORAGE, STORAGE + setting))


def restart(hospital: Hospital) -> None:
    """Kill both sides and start them."""
    sides: tuple[Side, ...] = ("receive", "work")
    for side in sides:
        hospital.node.kill(side)
    for side in sides:
        hospital.node.start(side)
    hospital.node.port()


def test_files_of_before_and_work_in_flight_go_on_with_a_journal_and_without(
    tmp_path: Path, settle: Settle
) -> None:
    archive = Archive(tmp_path / "pacs")
    archive.port = archive.start()
    archive.stop()
    with Hospital(tmp_path, archive) as hospital:
        set_journal(hospital, 0)
        restart(hospital)
        spool = hospital.node.root / "spool"
        # Answered, and the archive is away.
        hospital.push(hospital.write("undelivered"))
        end = time.monotonic() + 300
        while time.monotonic() < end and not list(spool.rglob("results/**/*.dcm")):
            time.sleep(0.5)
        hospital.node.kill("work")
        hospital.push(hospital.write("only received"))
        had_journal = (spool / "journal").exists()
        hospital.node.start("work")
        set_journal(hospital, None)
        restart(hospital)
        hospital.push(hospital.write("through the journal"))
        has_journal = (spool / "journal").exists()
        # Killed with records in the journal, and switched off: what is in it is read all the same.
        hospital.node.kill("work")
        hospital.push(hospital.write("left in the journal"))
        hospital.node.kill("receive")
        waiting = journaled_uids(spool)
        set_journal(hospital, 0)
        with archive:
            hospital.node.start("receive")
            hospital.node.start("work")
            hospital.node.port()
            hospital.wait_answered()
            counts = hospital.count()
            hospital.node.check()
        left = list((spool / "journal").glob("*"))

    settle("journal switched on and off with work in flight", 2, counts)
    assert (had_journal, has_journal, left) == (False, True, [])
    assert counts.studies == 4
    assert len(waiting) > 0
