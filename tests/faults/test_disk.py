"""A disk that is full, at its mark, or read-only: refused by name, nothing half, and served again when there is room."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import structlog.testing

from dicomnode.errors import OutOfResources
from dicomnode.ledger.ledger import Ledger
from dicomnode.network.association import Receiver
from dicomnode.network.sender import send_files
from dicomnode.records import AddOutcome, ReceivedInstance
from dicomnode.settings.config import DestinationSettings, parse_config
from dicomnode.spool.journal.replay import replay_journal
from dicomnode.spool.journal.spool import JournalSpool
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.recover import read_instance
from dicomnode.spool.writer import SpoolWriter
from tests.factories.instances import write_instances
from tests.factories.journal import left_half

pytestmark = [pytest.mark.slow, pytest.mark.faults]

MIB = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=False)
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("minimum_free_bytes", [0, MIB])
def test_a_disk_that_fills_up_and_is_emptied(
    small_disk: Path, tmp_path: Path, minimum_free_bytes: int
) -> None:
    # The ledger elsewhere: whether the spool or the ledger is full first is another question.
    config = parse_config(
        {"network": {"port": 0, "ae_title": "NODE"}, "storage": {"root": str(tmp_path / "root")}}
    )
    config.storage.root.mkdir()
    layout = SpoolLayout(small_disk / "spool")
    ledger = Ledger.open(config.storage.database_url)
    receiver = Receiver(config, SpoolWriter(layout, minimum_free_bytes), ledger.instances.add, time.time)
    peer = DestinationSettings(name="node", ae_title="NODE", host="127.0.0.1", port=receiver.start()[1])
    files = write_instances(tmp_path / "study", 60, side=256)
    try:
        first = send_files(files, peer, calling_ae="SCANNER", timeout_s=30)
        taken = [file for file, outcome in zip(files, first, strict=True) if outcome.status == 0]
        refused = {outcome.status for outcome in first if outcome.status != 0}
        whole = list(layout.incoming.rglob("*.dcm"))
        half = list(layout.incoming.rglob("*.part"))
        for path in whole[:10]:
            path.unlink()
        again = send_files(files[-5:], peer, calling_ae="SCANNER", timeout_s=30)
    finally:
        receiver.stop(2.0)
        rows = ledger.instances.unindexed(1000)
        ledger.close()

    assert 5 < len(taken) < 60
    assert refused == {0xA700}
    assert (len(whole), half) == (len(taken), [])
    assert len(rows) == len(taken) + 5
    assert {outcome.status for outcome in again} == {0}
    assert all(
        read_instance(layout, path.relative_to(layout.root).as_posix())
        for path in layout.incoming.rglob("*.dcm")
    )


def test_a_spool_that_turned_read_only(small_disk: Path) -> None:
    writer = SpoolWriter(SpoolLayout(small_disk / "spool"), 0)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    names = {
        "SOPClassUID": "1.2",
        "SOPInstanceUID": "1.2.3",
        "TransferSyntaxUID": "1.2.840.10008.1.2.1",
        "calling_ae": "A",
        "peer_host": "",
    }

    with pytest.raises(OutOfResources, match="Read-only"):
        writer.write(b"dataset", **names, now=0.0)


def test_the_marks_do_not_flutter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free_mib = 100.0
    really = os.statvfs

    def statvfs(path: object) -> os.statvfs_result:
        seen = list(really(path))  # type: ignore[call-overload]
        seen[1], seen[4] = 4096, int(free_mib * MIB) // 4096
        return os.statvfs_result(seen)

    writer = SpoolWriter(SpoolLayout(tmp_path / "spool"), 50 * MIB, 80 * MIB)
    monkeypatch.setattr("dicomnode.spool.writer.os.statvfs", statvfs)
    number = 0

    def takes(mib: float) -> bool:
        nonlocal free_mib, number
        free_mib, number = mib, number + 1
        names = {
            "SOPClassUID": "1.2",
            "TransferSyntaxUID": "1.2.840.10008.1.2.1",
            "calling_ae": "A",
            "peer_host": "",
        }
        try:
            writer.write(b"dataset", SOPInstanceUID=f"1.2.{number}", **names, now=0.0)
        except OutOfResources:
            return False
        return True

    with structlog.testing.capture_logs() as logged:
        taken = [takes(mib) for mib in (100, 51, 49, 51, 79, 49, 81, 51)]

    assert taken == [True, True, False, False, False, False, True, True]
    assert [entry["event"] for entry in logged] == ["spool_full", "spool_takes_instances_again"]


class Rows:
    """A ledger that remembers what it was told."""

    def __init__(self) -> None:
        self.listed: list[ReceivedInstance] = []

    def list_all(self, instances: Sequence[ReceivedInstance]) -> list[AddOutcome | Exception]:
        self.listed += instances
        return ["new"] * len(instances)


def open_journal(layout: SpoolLayout) -> JournalSpool:
    return JournalSpool(SpoolWriter(layout, 0), MIB, replay_journal(layout), MIB)


def write(journal: JournalSpool, number: int) -> ReceivedInstance:
    return journal.write(
        bytes([number % 256]) * (MIB // 8),
        SOPClassUID="1.2",
        SOPInstanceUID=f"1.2.{number}",
        TransferSyntaxUID="1.2.840.10008.1.2.1",
        calling_ae="A",
        peer_host="",
        now=float(number),
    )


def write_until_refused(journal: JournalSpool, first: int) -> tuple[list[ReceivedInstance], OutOfResources]:
    taken = []
    for number in range(first, first + 200):
        try:
            taken.append(write(journal, number))
        except OutOfResources as refused:
            return taken, refused
        time.sleep(0.02)
    raise AssertionError("a disk of 4 MiB took 25")


def test_a_disk_that_is_full_in_the_middle_of_a_segment(small_disk: Path) -> None:
    layout, rows = SpoolLayout(small_disk / "spool"), Rows()
    journal = open_journal(layout)
    journal.start(rows.list_all)
    while not list(layout.journal.glob("*.segment")):
        time.sleep(0.01)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(5 * MIB // 2))
    taken, refused = write_until_refused(journal, 0)
    half = left_half(layout.incoming)
    ballast.unlink()
    journal.settle()
    taken += [write(journal, 900)]
    journal.close()
    files = {path.relative_to(layout.root).as_posix() for path in layout.incoming.rglob("*.dcm")}

    assert refused.status == 0xA700
    assert (half, len(taken) > 2) == (set(), True)
    assert rows.listed == taken
    assert files == {instance.path for instance in taken}
    assert all(read_instance(layout, path) for path in files)


def test_a_crash_on_a_full_disk_loses_nothing(small_disk: Path) -> None:
    layout = SpoolLayout(small_disk / "spool")
    journal = open_journal(layout)
    journal._pool.make_spare()
    taken = [write(journal, number) for number in range(6)]
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as full:
        while os.statvfs(small_disk).f_bavail:
            full.write(bytes(4096))

    while_full = replay_journal(layout)
    ballast.unlink()
    replayed = replay_journal(layout)

    assert (while_full.full, while_full.empty) == (1, ())
    assert replayed.records == 6
    assert all(read_instance(layout, instance.path) for instance in taken)


def test_an_idle_journal_holds_no_file_open_and_says_that_the_disk_is_read_only(small_disk: Path) -> None:
    layout, rows = SpoolLayout(small_disk / "spool"), Rows()
    journal = open_journal(layout)
    journal.start(rows.list_all)
    taken = [write(journal, number) for number in range(3)]
    end = time.monotonic() + 60
    while subprocess.run(
        ["mount", "-o", "remount,ro", str(small_disk)], capture_output=True, check=False
    ).returncode:
        assert time.monotonic() < end, "a file is open for writing"
        time.sleep(0.1)
    with pytest.raises(OutOfResources, match="Read-only"):
        write(journal, 10)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    taken += [write(journal, 11)]
    journal.close()

    assert rows.listed == taken
    assert all(read_instance(layout, instance.path) for instance in taken)
