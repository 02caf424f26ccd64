"""The archive is away, then full, then well: results wait, are tried again by themselves, and arrive once."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.author import write_series
from dicomnode.simulator.node import AE_TITLE, NodeProcesses
from tests.factories.head import head_series, study_uid

pytestmark = [pytest.mark.slow, pytest.mark.faults]

UID = study_uid("archive down")
SETTINGS = "[study]\nquiet_s = 3\n[delivery]\nbackoff_first_s = 0.5\nbackoff_maximum_s = 2\n"
FULL = 0xA700


def free_port() -> int:
    # Nobody may listen there at first, so the archive cannot take a free one itself.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(node: NodeProcesses, *words: str) -> str:
    command = [sys.executable, "-m", "dicomnode", *words, "--config", str(node.config)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def deliveries(node: NodeProcesses) -> list[dict[str, Any]]:
    rows = json.loads(ask(node, "status", "--json"))["studies"]
    if not any(row["StudyInstanceUID"] == UID for row in rows):
        return []
    return list(json.loads(ask(node, "why", UID, "--json"))["deliveries"])


def wait_for(what: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.5)


@pytest.mark.timeout(300)
def test_results_arrive_once_after_the_archive_was_away_and_then_full(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "pacs", port=free_port(), answer=FULL)
    images = write_series(head_series("flair", "archive down"), tmp_path / "study")
    with NodeProcesses(tmp_path, archive.ae_title, archive.port, SETTINGS) as node:
        peer = DestinationSettings(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=node.port())
        assert {
            outcome.verdict for outcome in send_files(images, peer, calling_ae="SCANNER", timeout_s=30)
        } == {"ok"}

        wait_for(lambda: any(delivery["attempts"] >= 2 for delivery in deliveries(node)), 120)
        # Not while it is being tried.
        wait_for(lambda: "next try" in ask(node, "why", UID), 60)
        while_away = ask(node, "why", UID)
        with archive:
            wait_for(lambda: len(archive.received) >= 4, 30)
            while_full = deliveries(node)
            kept_while_full = archive.files
            archive.answer = 0x0000
            wait_for(lambda: {delivery["state"] for delivery in deliveries(node)} == {"sent"}, 60)
            tried = len(archive.received)
            time.sleep(4)  # Longer than the longest wait between two tries.
            assert len(archive.received) == tried
            wait_for(lambda: "done" in ask(node, "why", UID), 60)
            after = deliveries(node)
        node.check()

    assert "the peer cannot be reached" in while_away
    assert {delivery["state"] for delivery in while_full} <= {"due", "sending"}
    assert any("0xA700" in delivery["last_status"] for delivery in while_full)
    assert kept_while_full == ()
    arrived = [pydicom.dcmread(path) for path in archive.files]
    assert sorted(instance.Modality for instance in arrived) == ["SEG", "SR"]
    assert {str(instance.SOPInstanceUID) for instance in arrived} == {
        delivery["SOPInstanceUID"] for delivery in after
    }
    assert all(delivery["attempts"] >= 3 for delivery in after)
