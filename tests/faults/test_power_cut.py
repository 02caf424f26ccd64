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
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import pytest
import structlog
from pydicom.errors import InvalidDicomError

from dicomnode.ledger.ledger import Ledger
from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings
from dicomnode.spool.journal import replay
from dicomnode.spool.journal.record import BLOCK_BYTES, Record, read_records
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.recover import rebuild_ledger
from tests.conftest import find_tool
from tests.factories.disk import CALLS, Disk, Step, acknowledged_by, read_steps, read_trace
from tests.factories.instances import write_instances
from tests.factories.listening import eventually
from tests.faults.broken_receive import BREAKS, EXPIRED, EXPIRING, JOURNAL_BREAKS

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.tools]

SEED = 20261126
CUTS = int(os.environ.get("DICOMNODE_POWER_CUTS", "24"))
CUTS_OF_A_BROKEN_ONE, CUTS_OF_A_BROKEN_JOURNAL = 12, 36
SENDERS, PER_SENDER = 3, 15
BROKEN_RECEIVE = Path(__file__).with_name("broken_receive.py")


@dataclass
class Tally:
    """What was counted over the cuts of one recording."""

    cuts: int = 0
    acknowledged: int = 0
    lost: int = 0
    half: int = 0
    returned: int = 0
    not_started: list[str] = field(default_factory=list)

    def line(self, name: str) -> str:
        """One row of the table."""
        return f"| {name} | {self.cuts} | {self.acknowledged} | {self.lost} | {self.half} | {self.returned} | {len(self.not_started)} |"


HEADER = "| receive | power cuts | acknowledged, summed over cuts | of these lost | half files | expired and back again | did not start |\n|---|---|---|---|---|---|---|"


def record(folder: Path, broken: str, strace: str, *, journal_mb: int = 0) -> list[Step]:
    """Run a receiver under strace while three senders push, and return what it did to its root.

    With a journal they push twice: the second time into segments that were recycled.
    """
    root = folder / "node"
    root.mkdir(parents=True)
    port_file = root / "receive.json"
    config = folder / "node.toml"
    config.write_text(
        f'[network]\nport = 0\nae_title = "NODE"\n[storage]\nroot = "{root}"\nminimum_free_mb = 0\njournal_mb = {journal_mb}\n'
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
        if journal_mb:
            # Traced, it takes seconds to make its segments; until then every instance would become a file at once.
            segments = root / "spool" / "journal"
            assert eventually(lambda: len(list(segments.glob("*.segment"))) >= 2, timeout_s=60)
        for wave in range(2 if journal_mb else 1):
            _push(folder, port, wave)
            time.sleep(3.0 if journal_mb else 0.0)
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
    return read_steps(read_trace(trace.read_text(errors="replace")), root, {""})


def _push(folder: Path, port: int, wave: int) -> None:
    peer = DestinationSettings(name="node", ae_title="NODE", host="127.0.0.1", port=port)
    batches = [
        write_instances(folder / f"s{sender}-{wave}", PER_SENDER, seed=f"cut {sender} {wave}", side=48)
        for sender in range(SENDERS)
    ]
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
    layout = SpoolLayout(root / "spool")
    try:
        with closing(Ledger.open(f"sqlite:///{root / 'ledger.sqlite3'}")) as ledger:
            replay.replay_journal(layout)
            report = rebuild_ledger(layout, ledger.instances)
            rows = [row for _, row in ledger.instances.unindexed(10_000)]
    except Exception as problem:  # noqa: BLE001  whatever keeps it from starting is what this test looks for
        tally.not_started.append(f"{type(problem).__name__}: {problem}")
        return
    # Not by what the node thinks of its files: the pixels must be there, to the last byte.
    listed = {row.SOPInstanceUID for row in rows if _is_whole(layout.root / row.path)}
    expiring, expired = _noted(root / EXPIRING), _noted(root / EXPIRED)
    tally.half += report.set_aside
    tally.lost += len(acknowledged - expiring - listed)
    tally.returned += len(expired & listed)


def _is_whole(path: Path) -> bool:
    try:
        image = pydicom.dcmread(path)
        return bytes(image.PixelData) == image.pixel_array.tobytes() and image.pixel_array.any()
    except (OSError, InvalidDicomError, ValueError, AttributeError):
        return False


def _noted(path: Path) -> set[str]:
    return set(path.read_text().split()) if path.exists() else set()


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
    steps = record(tmp_path / "run", "whole", require_tool("strace"))
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
    steps = record(tmp_path / "run", broken, require_tool("strace"))

    tally = cut_power(steps, tmp_path, CUTS_OF_A_BROKEN_ONE)

    sys.stdout.write(f"\nseed {SEED}, {len(steps)} steps\n{HEADER}\n{tally.line(broken)}")
    assert tally.lost + tally.half > 0


# The journal.


@pytest.fixture(scope="module")
def journal_steps(tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    """Record the journal as it is shipped, once for all that is done with the recording."""
    strace = find_tool("strace", ci=bool(os.environ.get("CI")))
    return record(tmp_path_factory.mktemp("journal"), "whole", strace, journal_mb=1)


@pytest.mark.timeout(3600)
def test_a_power_cut_takes_nothing_that_a_journal_has_acknowledged(
    journal_steps: list[Step], tmp_path: Path
) -> None:
    answered = {uid for step in journal_steps if step.kind == "answer" for uid in acknowledged_by(step.data)}

    tally = cut_power(journal_steps, tmp_path, CUTS)

    sys.stdout.write(
        f"\nseed {SEED}, {len(journal_steps)} steps\n{HEADER}\n{tally.line('journal as shipped')}"
    )
    assert len(answered) == 2 * SENDERS * PER_SENDER
    assert {step.kind for step in journal_steps} >= {
        "write",
        "sync",
        "sync begins",
        "sync all",
        "rename",
        "answer",
    }
    # How many found room in so small a journal depends on the machine; what did not became a file at once. Two
    # segments were empty at the first wave, one at least at the second, and seven records have room in one.
    records = [
        step
        for step in journal_steps
        if step.path.startswith("spool/journal/") and step.data[:8] == b"DNRECD01"
    ]
    headers = [
        step for step in journal_steps if step.path.endswith(".segment") and step.data[:8] == b"DNSEGM01"
    ]
    assert len(records) >= 20
    assert len(headers) >= 2
    assert (tally.lost, tally.half, tally.returned, tally.not_started) == (0, 0, 0, [])
    assert tally.acknowledged > CUTS


@pytest.mark.timeout(900)
@pytest.mark.parametrize("broken", [name for name in JOURNAL_BREAKS if name != "whole"])
def test_a_broken_journal_is_caught(tmp_path: Path, require_tool: Callable[[str], str], broken: str) -> None:
    steps = record(tmp_path / "run", broken, require_tool("strace"), journal_mb=1)

    tally = cut_power(steps, tmp_path, CUTS_OF_A_BROKEN_JOURNAL)

    sys.stdout.write(f"\nseed {SEED}, {len(steps)} steps\n{HEADER}\n{tally.line(broken)}")
    assert tally.lost + tally.half > 0


def _stop_at_the_first_torn(segment: memoryview, generation: bytes) -> Iterator[Record]:
    end = BLOCK_BYTES
    for found in read_records(segment, generation):
        if bytes(segment[end : end + 24]) != b"DNRECD01" + generation or found.dataset not in bytes(
            segment[end : end + BLOCK_BYTES * 4]
        ):
            return
        yield found
        end += -(-(108 + len(found.head) + len(found.dataset)) // BLOCK_BYTES) * BLOCK_BYTES


def _of_any_generation(segment: memoryview, _generation: bytes) -> Iterator[Record]:
    starts = (
        bytes(segment[offset : offset + 24]) for offset in range(BLOCK_BYTES, len(segment), BLOCK_BYTES)
    )
    for generation in {start[8:] for start in starts if start[:8] == b"DNRECD01"}:
        yield from read_records(segment, generation)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("replay stops at the first torn record", _stop_at_the_first_torn),
        ("no generation", _of_any_generation),
    ],
)
def test_a_broken_replay_is_caught(
    journal_steps: list[Step],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    reader: Callable[[memoryview, bytes], Iterator[Record]],
) -> None:
    monkeypatch.setattr(replay, "read_records", reader)

    tally = cut_power(journal_steps, tmp_path, CUTS_OF_A_BROKEN_JOURNAL)

    sys.stdout.write(f"\nseed {SEED}, {len(journal_steps)} steps\n{HEADER}\n{tally.line(name)}")
    assert tally.lost + tally.returned > 0
