"""`dicomnode receive` is killed with SIGKILL again and again while senders push; what it acknowledged is there, and nothing is half there."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomnode.ledger.ledger import Ledger
from dicomnode.network.sender import send_files
from dicomnode.records import ReceivedInstance
from dicomnode.settings.config import DestinationSettings
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.recover import read_instance
from tests.factories.hospital import Counts, Settle
from tests.factories.instances import write_instances
from tests.factories.journal import journaled_uids

pytestmark = [pytest.mark.slow, pytest.mark.faults]

ROUNDS = int(os.environ.get("DICOMNODE_KILLS", "8"))
SENDERS = 3
MANY = 1000
PER_SENDER = 10 * (ROUNDS + 1)
SEED = 20261121


@dataclass
class Node:
    """The command, its folder and its process."""

    root: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start `dicomnode receive`, and return when it listens."""
        settings = f'[network]\nport = {self.port}\nae_title = "NODE"\n[storage]\nroot = "{self.root}"\nminimum_free_mb = 0\n'
        config = self.root.parent / "node.toml"
        config.write_text(settings)
        command = [sys.executable, "-m", "dicomnode", "receive", "--config", str(config)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 240
        while time.monotonic() < end:
            assert self.process.poll() is None, "dicomnode receive ended by itself"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        pytest.fail("dicomnode receive does not listen")

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    (tmp_path / "node").mkdir()
    node = Node(tmp_path / "node" / "root", port)
    yield node
    if node.process is not None and node.process.poll() is None:
        node.kill()


@dataclass
class Pace:
    """How far each sender may go: one more share of its files for each kill, so that every kill falls into the middle on a slow and on a fast machine alike."""

    shares: int
    kills: int = 0

    def allowed(self, files: int) -> int:
        return files * (self.kills + 1) // self.shares


def push(files: list[Path], port: int, acknowledged: set[str], go_on: threading.Event, pace: Pace) -> None:
    """Send files until each is acknowledged or the test ends; note what was acknowledged the moment that it was."""
    peer = DestinationSettings(name="node", ae_title="NODE", host="127.0.0.1", port=port)
    left = list(files)
    while left and go_on.is_set():
        # In small batches, so that associations are opened and released all the time.
        taken_so_far = len(files) - len(left)
        batch = left[: min(7, pace.allowed(len(files)) - taken_so_far)]
        outcomes = send_files(batch, peer, calling_ae="SCANNER", timeout_s=5) if batch else []
        taken = [path for path, outcome in zip(batch, outcomes, strict=True) if outcome.verdict == "ok"]
        acknowledged.update(
            str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in taken
        )
        left = [path for path in left if path not in taken]
        time.sleep(0.01)


@pytest.mark.timeout(300 + 10 * ROUNDS)
def test_what_was_acknowledged_survives(node: Node, tmp_path: Path, settle: Settle) -> None:
    chance = random.Random(SEED)
    acknowledged: set[str] = set()
    go_on = threading.Event()
    go_on.set()
    pace = Pace(ROUNDS + 1)
    batches = [
        write_instances(tmp_path / str(sender), PER_SENDER, seed=f"sender {sender}", side=200)
        for sender in range(SENDERS)
    ]
    senders = [
        threading.Thread(target=push, args=(batch, node.port, acknowledged, go_on, pace)) for batch in batches
    ]
    node.start()
    for sender in senders:
        sender.start()

    seen_per_kill = [0]
    try:
        for _ in range(ROUNDS):
            _wait_for_more(acknowledged, seen_per_kill[-1])
            time.sleep(chance.uniform(0, 0.05))
            node.kill()
            seen_per_kill.append(len(acknowledged))
            _check(node, set(acknowledged))
            pace.kills += 1
            node.start()
        for sender in senders:
            sender.join(90)
    finally:
        go_on.clear()
    node.kill()

    assert len(acknowledged) == SENDERS * PER_SENDER, f"acknowledged at each kill: {seen_per_kill}"
    _check(node, acknowledged)
    stored = {row.SOPInstanceUID for row in _listed_after_restart(node)}
    settle(
        "SIGKILL of receive under three senders",
        ROUNDS,
        Counts(len(acknowledged), len(acknowledged - stored), 0, 0, 0),
    )
    # Each kill fell between the first and the last instance.
    assert all(0 < seen < SENDERS * PER_SENDER for seen in seen_per_kill[1:]), (
        f"acknowledged at each kill: {seen_per_kill}"
    )


def test_dcmtk_senders_lose_nothing_either(
    node: Node, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    chance = random.Random(SEED + 1)
    write_instances(tmp_path / "study", MANY, side=64)
    node.start()
    log = tmp_path / "storescu.log"
    with log.open("wb") as output:
        command = [
            require_tool("storescu"),
            "-v",
            "-aec",
            "NODE",
            "127.0.0.1",
            str(node.port),
            "+sd",
            str(tmp_path / "study"),
        ]
        storescu = subprocess.Popen(command, stdout=output, stderr=output)
        end = time.monotonic() + 20
        while (
            log.read_bytes().count(b"Received Store Response (Success)") < chance.randint(5, 40)
            and time.monotonic() < end
        ):
            time.sleep(0.001)
        node.kill()
        storescu.wait(30)

    successes = log.read_bytes().count(b"Received Store Response (Success)")
    assert 0 < successes < MANY
    assert storescu.returncode != 0
    # One association sends one after the other: what is there is the beginning, and at most one more than was acknowledged.
    stored = {row.SOPInstanceUID for row in _listed_after_restart(node)}
    order = [str(dcmread(path).SOPInstanceUID) for path in sorted((tmp_path / "study").iterdir())]
    assert successes <= len(stored) <= successes + 1
    assert len(stored & set(order)) == len(stored)


def test_a_power_cut_that_takes_the_ledger_takes_no_instance(node: Node, tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    go_on = threading.Event()
    go_on.set()
    node.start()
    push(write_instances(tmp_path / "study", 10), node.port, acknowledged, go_on, Pace(1))
    node.kill()
    for file in node.root.glob("ledger.sqlite3*"):
        file.unlink()

    assert {row.SOPInstanceUID for row in _listed_after_restart(node)} == acknowledged
    assert len(acknowledged) == 10


def _wait_for_more(acknowledged: set[str], seen: int) -> None:
    end = time.monotonic() + 60
    while len(acknowledged) <= seen:
        assert time.monotonic() < end, f"nothing more was acknowledged after {seen} instances"
        time.sleep(0.001)


def _check(node: Node, acknowledged: set[str]) -> None:
    """What lies in the spool right after a kill, before anything is put in order: acknowledged instances, all of them whole.

    Each is a file, or still in the journal; what is listed is a file.
    """
    layout = SpoolLayout(node.root / "spool")
    paths = [f"incoming/{path.parent.name}/{path.name}" for path in layout.incoming.glob("*/*.dcm")]
    whole = [instance for path in paths if (instance := read_instance(layout, path)) is not None]
    assert len(whole) == len(paths), "a half file has a final name"
    filed = {instance.SOPInstanceUID for instance in whole}
    assert acknowledged - journaled_uids(layout.root) <= filed
    assert {row.SOPInstanceUID for row in _rows(node)} <= filed


def _listed_after_restart(node: Node) -> list[ReceivedInstance]:
    node.start()
    node.kill()
    layout = SpoolLayout(node.root / "spool")
    assert list(layout.root.rglob("*.part")) == []
    rows = _rows(node)
    files = {f"incoming/{path.parent.name}/{path.name}" for path in layout.incoming.glob("*/*.dcm")}
    assert {row.path for row in rows} == files
    return rows


def _rows(node: Node) -> list[ReceivedInstance]:
    ledger = Ledger.open(f"sqlite:///{node.root / 'ledger.sqlite3'}")
    try:
        return [instance for _, instance in ledger.instances.unindexed(10_000)]
    finally:
        ledger.close()
