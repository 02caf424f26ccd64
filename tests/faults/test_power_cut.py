"""The power is cut at random moments while `dicomnode receive` takes studies: what was acknowledged is on the disk, and nothing is half.

A kill cannot show a missing fsync, since the page cache survives it. So the system calls of the process are recorded (strace), the worst
disk that they may leave is rebuilt for many moments out of one recording (tests/factories/disk.py), and the node is started on it.

    DICOMNODE_POWER_CUTS=500 python -m pytest -m faults tests/faults/test_power_cut.py -s     # the long form
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog

from dicomnode.ledger.ledger import Ledger
from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.recover import rebuild_ledger
from tests.factories.disk import CALLS, Disk, Step, acknowledged_by, read_steps, read_trace
from tests.factories.instances import write_instances
from tests.faults.broken_receive import BREAKS

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.tools]

SEED = 20261126
CUTS = int(os.environ.get("DICOMNODE_POWER_CUTS", "24"))
CUTS_OF_A_BROKEN_ONE = 12
SENDERS, PER_SENDER = 3, 15
BROKEN_RECEIVE = Path(__file__).with_name("broken_receive.py")


@dataclass
class Tally:
    """What was counted over the cuts of one recording."""

    cuts: int = 0
    acknowledged: int = 0
    lost: int = 0
    half: int = 0
    not_started: list[str] = field(default_factory=list)

    def line(self, name: str) -> str:
        """One row of the table."""
        return f"| {name} | {self.cuts} | {self.acknowledged} | {self.lost} | {self.half} | {len(self.not_started)} |"


HEADER = "| receive | power cuts | acknowledged, summed over cuts | of these lost | half files | did not start |\n|---|---|---|---|---|---|"


def record(folder: Path, broken: str, strace: str) -> tuple[list[Step], Path]:
    """Run a receiver under strace while three senders push, and return what it did to its root, and that root."""
    root = folder / "node"
    root.mkdir(parents=True)
    port_file = root / "receive.json"
    config = folder / "node.toml"
    config.write_text(
        f'[network]\nport = 0\nae_title = "NODE"\n[storage]\nroot = "{root}"\nminimum_free_mb = 0\n'
    )
    trace = folder / "trace"
    command = [
        strace,
        "-f",
        "-y",
        "-xx",
        "-s",
        "4000000",
        "-o",
        str(trace),
        "-e",
        f"trace={CALLS}",
        "--",
        sys.executable,
        str(BROKEN_RECEIVE),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, broken, str(config)], stdout=log, stderr=log, env=environment)
    try:
        port = _port_of(port_file, process, folder / "log")
        batches = [
            write_instances(folder / f"s{sender}", PER_SENDER, seed=f"cut {sender}", side=48)
            for sender in range(SENDERS)
        ]
        peer = DestinationSettings(name="node", ae_title="NODE", host="127.0.0.1", port=port)
        senders = [
            threading.Thread(
                target=send_files, args=(batch, peer), kwargs={"calling_ae": f"S{number}", "timeout_s": 60}
            )
            for number, batch in enumerate(batches)
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        time.sleep(1.0)  # What was answered before it was written is written now.
    finally:
        # The traced process, not strace: it ends by itself.
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    return read_steps(read_trace(trace.read_text(errors="replace")), root, {""}), root


def cut_power(steps: list[Step], folder: Path, cuts: int) -> Tally:
    """Cut at random moments, start on what is left, and count."""
    chance = random.Random(SEED)
    first = next(
        (
            number
            for number, step in enumerate(steps)
            if step.kind == "answer" and list(acknowledged_by(step.data))
        ),
        len(steps),
    )
    moments = sorted(chance.randrange(first, len(steps)) + 1 for _ in range(cuts))
    disk, done, tally = Disk({}, {""}), 0, Tally()
    for number, moment in enumerate(moments):
        while done < moment:
            disk.apply(steps[done])
            done += 1
        # Every second time the very worst, else with luck for some of what was not synced.
        luck = random.Random(chance.random()) if number % 2 else None
        left = folder / f"cut{number}"
        left.mkdir()
        disk.after_cut(left, luck)
        _count(left, disk.acknowledged, tally)
        shutil.rmtree(left)
    return tally


def _count(root: Path, acknowledged: set[str], tally: Tally) -> None:
    """Do what `dicomnode receive` does at its start, and look at what is there."""
    tally.cuts += 1
    tally.acknowledged += len(acknowledged)
    try:
        with closing(Ledger.open(f"sqlite:///{root / 'ledger.sqlite3'}")) as ledger:
            report = rebuild_ledger(SpoolLayout(root / "spool"), ledger.instances)
            rows = {row.SOPInstanceUID for _, row in ledger.instances.unindexed(10_000)}
            files = {
                path.relative_to(root / "spool").as_posix()
                for path in (root / "spool" / "incoming").rglob("*.dcm")
            }
            listed = {
                row.SOPInstanceUID for _, row in ledger.instances.unindexed(10_000) if row.path in files
            }
    except Exception as problem:  # noqa: BLE001  whatever keeps it from starting is what this test looks for
        tally.not_started.append(f"{type(problem).__name__}: {problem}")
        return
    assert listed <= rows
    tally.half += report.set_aside
    tally.lost += len(acknowledged - listed)


def _port_of(announcement: Path, process: subprocess.Popen[bytes], log: Path) -> int:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(errors="replace")
        text = announcement.read_text() if announcement.exists() else ""
        if text.endswith("}"):
            return int(text.split('"port": ')[1].split(",")[0])
        time.sleep(0.1)
    raise AssertionError("dicomnode receive did not start under strace")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


@pytest.mark.timeout(900)
def test_a_power_cut_takes_nothing_that_was_acknowledged(
    tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    steps, _root = record(tmp_path / "run", "whole", require_tool("strace"))
    answered = {uid for step in steps if step.kind == "answer" for uid in acknowledged_by(step.data)}

    tally = cut_power(steps, tmp_path, CUTS)

    sys.stdout.write(f"\nseed {SEED}, {len(steps)} steps\n{HEADER}\n{tally.line('as shipped')}")
    assert len(answered) == SENDERS * PER_SENDER
    assert {step.kind for step in steps} >= {"write", "sync", "rename", "sync folder", "answer", "create"}
    assert (tally.lost, tally.half, tally.not_started) == (0, 0, [])
    assert tally.acknowledged > CUTS


@pytest.mark.timeout(900)
@pytest.mark.parametrize("broken", [name for name in BREAKS if name != "whole"])
def test_a_broken_receiver_is_caught(tmp_path: Path, require_tool: Callable[[str], str], broken: str) -> None:
    steps, _root = record(tmp_path / "run", broken, require_tool("strace"))

    tally = cut_power(steps, tmp_path, CUTS_OF_A_BROKEN_ONE)

    sys.stdout.write(f"\nseed {SEED}, {len(steps)} steps\n{HEADER}\n{tally.line(broken)}")
    assert tally.lost + tally.half > 0
