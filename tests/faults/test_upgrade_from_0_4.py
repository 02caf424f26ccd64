"""A node of release 0.4.0 was killed with work in flight: today's node goes on in the same folder."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pydicom
import pytest

from dicomnode.simulator.archive import Archive
from tests.factories.hospital import QUICK, Hospital, Settle
from tests.factories.release_0_4 import REVISION, OldRoot

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]


def acknowledge(hospital: Hospital, files: list[Path]) -> list[Path]:
    """Count instances as acknowledged by the node of before."""
    hospital.acknowledged |= {str(pydicom.dcmread(file).SOPInstanceUID) for file in files}
    return files


def fill(hospital: Hospital, old: OldRoot) -> list[str]:
    """Leave a study in each state of 0.4.0; return the UIDs of the results that had not been delivered."""
    answered = old.add_instances(acknowledge(hospital, hospital.write("undelivered")), indexed=34)
    undelivered = old.add_job(answered, "encoded", deliveries="due")
    running = old.add_instances(acknowledge(hospital, hospital.write("half computed")), indexed=34)
    old.add_job(running, "running")
    files = hospital.write("half sent")
    waiting = old.add_instances(acknowledge(hospital, files[:20]), indexed=7)
    old.add_job(waiting, "waiting")
    # Killed between the file and its row, and in the middle of a file: neither was acknowledged.
    old.store(files[20])
    half = old.spool / "incoming" / "0" / ".0123.dcm.4711.0.part"
    half.write_bytes(files[21].read_bytes()[:5000])
    return undelivered


def test_a_node_of_0_4_0_with_work_in_flight_is_upgraded_and_goes_on(tmp_path: Path, settle: Settle) -> None:
    with Archive(tmp_path / "pacs") as archive:
        # The half study must not count as quiet before the node listens and the scanner has sent the rest.
        hospital = Hospital(tmp_path, archive, QUICK.replace("quiet_s = 3", "quiet_s = 30"))
        old = OldRoot(hospital.node.root, archive.ae_title, archive.port)
        undelivered = fill(hospital, old)
        delivered_files = hospital.write("delivered")
        delivered = old.add_instances(acknowledge(hospital, delivered_files), indexed=34)
        old.add_job(delivered, "done", deliveries="sent")
        hospital.studies.remove(delivered)
        with hospital:
            # The scanner sends one study whole; another one that is answered comes once more.
            hospital.push(sorted((tmp_path / "studies" / "half sent").rglob("*.dcm")))
            hospital.push(delivered_files)
            hospital.wait_answered()
            counts = hospital.count()
            hospital.node.check()
        arrived = {path.stem for path in archive.folder.glob("*.dcm")}
        reports = hospital.reports()
    with sqlite3.connect(old.ledger) as connection:
        revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        rows = connection.execute("SELECT state, revision, count(*) FROM jobs GROUP BY 1, 2").fetchall()
    connection.close()

    settle("upgrade of a node of 0.4.0 with work in flight", 1, counts)
    assert revision > REVISION
    assert rows == [("done", 1, 4)]
    assert set(undelivered) <= arrived
    assert reports[delivered] == 0
    assert not list(old.spool.rglob("*.part"))
