"""`dicomnode receive` stopped, killed and started again: what was acknowledged is listed, compared or not."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.orderly import NOTE
from tests.factories.instances import write_instances

pytestmark = pytest.mark.slow


class Receive:
    """The receiving side alone, in a process."""

    def __init__(self, folder: Path, journal_mb: int) -> None:
        self.root, self.log = folder / "node", folder / "node.log"
        self.config = folder / "dicomnode.toml"
        self.config.write_text(
            f'[network]\nae_title = "NODE"\nport = 0\n[storage]\nroot = {json.dumps(str(self.root))}\n'
            f"minimum_free_mb = 0\njournal_mb = {journal_mb}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start it, return when it listens, with the event that says how the spool was found."""
        before = self.log.read_text() if self.log.exists() else ""
        with self.log.open("ab") as output:
            command = [sys.executable, "-P", "-m", "dicomnode", "receive", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        end = time.monotonic() + 60
        while "listening" not in (said := self.log.read_text()[len(before) :]):
            assert time.monotonic() < end, said
            assert self.process.poll() is None, said
            time.sleep(0.02)
        return "as left" if "spool_as_left" in said else "compared" if "spool_recovered" in said else said

    def end(self, by: int) -> None:
        assert self.process is not None
        self.process.send_signal(by)
        self.process.wait(30)

    def send(self, files: list[Path]) -> None:
        port = json.loads((self.root / "receive.json").read_text())["port"]
        peer = DestinationSettings(name="node", ae_title="NODE", host="127.0.0.1", port=port)
        outcomes = send_files(files, peer, calling_ae="SCANNER", timeout_s=30)
        assert {outcome.status for outcome in outcomes} == {0}

    def rows(self) -> int:
        with sqlite3.connect(self.root / "ledger.sqlite3") as connection:
            return int(connection.execute("SELECT count(*) FROM instances").fetchone()[0])


@pytest.mark.parametrize("journal_mb", [0, 256])
def test_a_start_compares_unless_the_stop_was_orderly_and_nothing_changed(
    tmp_path: Path, journal_mb: int
) -> None:
    receive = Receive(tmp_path, journal_mb)
    files = write_instances(tmp_path / "study", 9, side=16)
    layout = SpoolLayout(receive.root / "spool")

    assert receive.start() == "compared"
    receive.send(files[:3])
    receive.end(signal.SIGTERM)
    assert (receive.rows(), (layout.root / NOTE).exists()) == (3, True)
    assert receive.start() == "as left"
    assert not (layout.root / NOTE).exists()
    receive.send(files[3:6])
    receive.end(signal.SIGKILL)
    assert receive.start() == "compared"
    receive.end(signal.SIGTERM)
    assert receive.rows() == 6
    assert receive.start() == "as left"
    receive.end(signal.SIGTERM)

    found = _break_in(layout, receive, lambda: (layout.incoming / "0" / ".x.1.2.part").write_bytes(b"half"))
    assert found == ("compared", 6)
    found = _break_in(layout, receive, lambda: _forget(receive))
    assert found == ("compared", 6)
    found = _break_in(layout, receive, (receive.root / "ledger.sqlite3").unlink)
    assert found == ("compared", 6)
    assert receive.start() == "as left"
    receive.end(signal.SIGTERM)
    # What is missing is told of at every start.
    next(layout.incoming.rglob("*.dcm")).unlink()
    for _ in range(2):
        assert receive.start() == "compared"
        receive.end(signal.SIGTERM)
    assert receive.log.read_text().count("file_missing") == 2


def _break_in(layout: SpoolLayout, receive: Receive, change: Callable[[], object]) -> tuple[str, int]:
    """Change something while nobody receives; return how the next start found it, and how many rows there are."""
    assert (layout.root / NOTE).exists()
    change()
    event = receive.start()
    rows = receive.rows()
    receive.end(signal.SIGTERM)
    return event, rows


def _forget(receive: Receive) -> None:
    with sqlite3.connect(receive.root / "ledger.sqlite3") as connection:
        connection.execute("DELETE FROM instances WHERE id = 2")
