"""The archive says nothing from the start or from some moment on, thinks long, or sees the node die in the middle of a delivery."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pydicom
import pytest

from dicomnode.simulator.archive import Archive
from dicomnode.simulator.manners import Manners
from tests.factories.head import study_uid
from tests.factories.hospital import LIGHT, QUICK, Hospital, Settle

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]
# A node that waits for a slow archive however busy the machine is: what it gave up would be sent twice, and rightly so.
PATIENT = QUICK.replace("timeout_s = 5\n", "timeout_s = 60\n") + LIGHT


class Mute:
    """A host that takes connections and never says a word, as one does whose application hangs."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.taken: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while True:
            try:
                self.taken.append(self._listener.accept()[0])
            except OSError:
                return

    def hang_up(self) -> None:
        """Let everybody go and stop listening."""
        # Only a shutdown wakes the thread that waits in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.taken:
            connection.close()


def test_an_archive_that_says_nothing_holds_up_nothing_and_gets_all_later(
    tmp_path: Path, settle: Settle
) -> None:
    mute = Mute()
    archive = Archive(tmp_path / "pacs", port=mute.port)
    with Hospital(tmp_path, archive) as hospital:
        hospital.node.port()
        hospital.push(hospital.write("mute 1"))
        end = time.monotonic() + 300
        while time.monotonic() < end and not mute.taken:
            time.sleep(0.2)
        # While the node waits for a word it goes on taking studies.
        hospital.push(hospital.write("mute 2"))
        called = len(mute.taken)
        mute.hang_up()
        with archive:
            hospital.wait_answered()
            counts = hospital.count()
            hospital.node.check()

    assert called >= 1
    settle("archive half-open: takes connections, says nothing", called, counts)


def test_an_archive_that_falls_silent_in_an_association_gets_the_rest_later(
    tmp_path: Path, settle: Settle
) -> None:
    # The segmentation is answered, the report after it is not, nor is anything else until the archive starts anew.
    with (
        Archive(tmp_path / "pacs", manners=Manners(silent_at=2)) as archive,
        Hospital(tmp_path, archive) as hospital,
    ):
        hospital.node.port()
        hospital.push(hospital.write("fell silent"))
        end = time.monotonic() + 300
        while time.monotonic() < end and "no answer within 5 s" not in (
            story := why(hospital, "fell silent")
        ):
            time.sleep(1)
        # While the node waits for a word it goes on taking studies.
        hospital.push(hospital.write("came meanwhile"))
        before = archive.received
        archive.stop()
        archive.manners.silent_at = 0
        archive.start()
        hospital.wait_answered()
        counts = hospital.count()
        hospital.node.check()

    settle("archive that falls silent in the middle of an association", 1, counts)
    assert "no answer within 5 s" in story
    assert len(before) == 1
    assert set(Counter(archive.received).values()) == {1}
    assert len(archive.received) == 4


def why(hospital: Hospital, name: str) -> str:
    """Return what `dicomnode why` says of a study; nothing while it is not known yet."""
    command = [
        sys.executable,
        "-m",
        "dicomnode",
        "why",
        study_uid(name),
        "--config",
        str(hospital.node.config),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout


def test_a_slow_archive_gets_everything_once(tmp_path: Path, settle: Settle) -> None:
    with Archive(tmp_path / "pacs", slow_s=2.5) as archive, Hospital(tmp_path, archive, PATIENT) as hospital:
        hospital.node.port()
        for name in ("slow 1", "slow 2"):
            hospital.push(hospital.write(name))
        hospital.wait_answered()
        counts = hospital.count()
        hospital.node.check()
        received = len(archive.received)

    settle("archive that thinks 2.5 s about each object", received, counts)
    assert received == 4


def test_a_node_killed_in_the_middle_of_a_delivery_sends_the_same_objects_again(
    tmp_path: Path, settle: Settle
) -> None:
    with Archive(tmp_path / "pacs", slow_s=3.0) as archive, Hospital(tmp_path, archive, PATIENT) as hospital:
        hospital.node.port()
        hospital.push(hospital.write("killed in delivery"))
        end = time.monotonic() + 300
        while time.monotonic() < end and not archive.received:
            time.sleep(0.05)
        hospital.node.kill("work")
        archive.slow_s = 0.0
        hospital.node.start("work")
        hospital.wait_answered()
        counts = hospital.count()
        hospital.node.check()
        sent = Counter(archive.received)
        kept = {
            str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
            for path in archive.files
        }

    settle("SIGKILL in the middle of a delivery", 1, counts)
    # What was on its way may come twice, as the same object: an archive knows it by its SOP Instance UID.
    assert len(kept) == 2
    assert len(sent) <= 2
