"""`dicomnode receive` stopped, killed and started again: what was acknowledged is listed, compared or not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings
from dicomnode.simulator.node import AE_TITLE, NodeProcesses
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.orderly import NOTE
from tests.factories.instances import write_instances

pytestmark = pytest.mark.slow


class Receive:
    """The receiving side alone, in a process."""

    def __init__(self, folder: Path, journal_mb: int) -> None:
        # Nothing is delivered: nobody listens at port 1.
        self.node = NodeProcesses(folder, "PACS", 1)
        text = self.node.config.read_text()
        self.node.config.write_text(text.replace("[storage]\n", f"[storage]\njournal_mb = {journal_mb}\n"))
        self.ledger = self.node.root / "ledger.sqlite3"

    def start(self) -> str:
        """Start it, and return when it listens how it says that it found the spool."""
        before = len(self.node.log.read_text()) if self.node.log.exists() else 0
        self.node.start("receive")
        self.node.port()
        said = self.node.log.read_text()[before:]
        assert "dropped_keys" not in said
        return "as left" if "spool_as_left" in said else "compared" if "spool_recovered" in said else said

    def send(self, files: list[Path]) -> None:
        peer = DestinationSettings(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=self.node.port())
        outcomes = send_files(files, peer, calling_ae="SCANNER", timeout_s=30)
        assert {outcome.status for outcome in outcomes} == {0}

    def rows(self) -> int:
        with sqlite3.connect(self.ledger) as connection:
            return int(connection.execute("SELECT count(*) FROM instances").fetchone()[0])


@pytest.fixture(params=[0, 256])
def receive(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Receive]:
    receive = Receive(tmp_path, request.param)
    yield receive
    receive.node.__exit__()


def test_a_start_compares_unless_the_stop_was_orderly_and_nothing_changed(
    receive: Receive, tmp_path: Path
) -> None:
    files = write_instances(tmp_path / "study", 9, side=16)
    layout = SpoolLayout(receive.node.root / "spool")

    assert receive.start() == "compared"
    receive.send(files[:3])
    receive.node.stop("receive")
    assert (receive.rows(), (layout.root / NOTE).exists()) == (3, True)
    assert receive.start() == "as left"
    assert not (layout.root / NOTE).exists()
    receive.send(files[3:6])
    receive.node.kill("receive")
    assert receive.start() == "compared"
    receive.node.stop("receive")
    assert receive.rows() == 6
    assert receive.start() == "as left"
    receive.node.stop("receive")

    found = _break_in(layout, receive, lambda: (layout.incoming / "0" / ".x.1.2.part").write_bytes(b"half"))
    assert found == ("compared", 6)
    found = _break_in(layout, receive, lambda: _forget(receive))
    assert found == ("compared", 6)
    found = _break_in(layout, receive, receive.ledger.unlink)
    assert found == ("compared", 6)
    assert receive.start() == "as left"
    receive.node.stop("receive")
    # What is missing is told of at every start.
    next(layout.incoming.rglob("*.dcm")).unlink()
    for _ in range(2):
        assert receive.start() == "compared"
        receive.node.stop("receive")
    assert receive.node.log.read_text().count("file_missing") == 2


def _break_in(layout: SpoolLayout, receive: Receive, change: Callable[[], object]) -> tuple[str, int]:
    """Change something while nobody receives; return how the next start found it, and how many rows there are."""
    assert (layout.root / NOTE).exists()
    change()
    event = receive.start()
    rows = receive.rows()
    receive.node.stop("receive")
    return event, rows


def _forget(receive: Receive) -> None:
    with sqlite3.connect(receive.ledger) as connection:
        connection.execute("DELETE FROM instances WHERE id = 2")
