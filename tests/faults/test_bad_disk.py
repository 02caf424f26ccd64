"""The spool turns read-only, or each sync takes long: refused or late, but nothing is acknowledged that is not on the disk, and it goes on."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicomnode.network.sender import echo, send_files
from dicomnode.settings.config import DestinationSettings
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.node import AE_TITLE
from tests.factories.hospital import Hospital, Settle

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(600)]

SYNC_S = 0.2
# The answer of a C-STORE is the only P-DATA-TF (type 4) that `receive` sends in a transfer.
ANSWER = '"\\4\\0'


@pytest.fixture
def spool_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of its own where the node's spool will be."""
    folder = tmp_path / "node" / "spool"
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400m,mode=0700", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    """Make it read-only ("ro") or writable ("rw"); the kernel refuses while a file is open for writing."""
    end = time.monotonic() + 30
    while subprocess.run(
        ["mount", "-o", f"remount,{how}", str(folder)], capture_output=True, check=False
    ).returncode:
        assert time.monotonic() < end, f"not remounted {how}"
        time.sleep(0.05)


def node_of(hospital: Hospital) -> DestinationSettings:
    return DestinationSettings(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=hospital.node.port())


def test_a_spool_that_turns_read_only_and_back(tmp_path: Path, spool_disk: Path, settle: Settle) -> None:
    with Archive(tmp_path / "pacs") as archive, Hospital(tmp_path, archive) as hospital:
        hospital.node.port()
        # Safe before; its quiet time ends while nothing can be written.
        hospital.push(hospital.write("before"))
        remount(spool_disk, "ro")
        files = hospital.write("meanwhile")
        refused = send_files(files, node_of(hospital), calling_ae="SCANNER", timeout_s=20)
        kept = len(list(spool_disk.rglob("*.dcm")))
        time.sleep(6)
        spoken = echo(node_of(hospital), "SCANNER", 20)
        early = sum(hospital.reports().values())
        remount(spool_disk, "rw")
        hospital.push(files)
        hospital.wait_answered()
        counts = hospital.count()
        hospital.node.check()
        left = list(spool_disk.rglob("*.part"))

    assert {outcome.status for outcome in refused} == {0xA700}
    assert (kept, spoken.verdict, early, left) == (34, "ok", 0, [])
    assert counts.acknowledged == 68
    settle("spool that turns read-only, and back", len(refused), counts)


@contextmanager
def slow_syncs(pid: int, strace: str, trace: Path) -> Iterator[None]:
    """Have every fsync and fdatasync of a process wait before it begins, and write down when it ends and what is sent."""
    delay = f"inject=fsync,fdatasync:delay_enter={int(SYNC_S * 1e6)}"
    command = [
        strace,
        "-f",
        # With the path of each file.
        "-y",
        "-s",
        "2",
        "-o",
        str(trace),
        "-e",
        "trace=fsync,fdatasync,write,writev,pwrite64,pwritev,pwritev2,sendto",
        "-e",
        delay,
        "-p",
        str(pid),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert "attached" in said, said
    try:
        yield
    finally:
        # It lets go of the process and ends.
        process.send_signal(signal.SIGINT)
        process.wait(30)
        process.stderr.close()


def answers_and_syncs(trace: str) -> tuple[list[str], int, int]:
    """Return the threads of the answers in order, how many of those came without a sync, and how many syncs there were.

    An answer has its sync when, after the last write of its own thread into the spool had returned, a sync began
    and returned. An instance is written into the journal, or into a file of its own where the journal has no room.
    """
    # Of each thread the line on which its last write returned; of each sync those on which it began and returned.
    wrote: dict[str, int] = {}
    is_into_spool: dict[str, bool] = {}
    began: dict[str, int] = {}
    syncs: list[tuple[int, int]] = []
    threads, without = [], 0
    for number, line in enumerate(trace.splitlines()):
        thread, _, call = line.partition(" ")
        if re.match(r"\s*f(data)?sync\(", call):
            began[thread] = number
        if re.search(r"sync\(.*= 0|sync resumed>.*= 0", call):
            syncs.append((began[thread], number))
        elif re.search(r"write\w*(\(| resumed>)", call):
            if "resumed>" not in call:
                is_into_spool[thread] = "/spool/" in call
            if is_into_spool.get(thread) and re.search(r"= [1-9]\d*$", call):
                wrote[thread] = number
        elif "sendto(" in call and ANSWER in call:
            threads.append(thread)
            written_at = wrote.pop(thread, None)
            without += written_at is None or not any(start > written_at for start, _ in syncs)
    return threads, without, len(syncs)


def test_a_disk_that_takes_long_for_each_sync(
    tmp_path: Path, settle: Settle, require_tool: Callable[[str], str]
) -> None:
    with Archive(tmp_path / "pacs") as archive, Hospital(tmp_path, archive) as hospital:
        hospital.node.port()
        studies = [hospital.write(f"slow disk {number}") for number in range(3)]
        with slow_syncs(hospital.node.pid("receive"), require_tool("strace"), tmp_path / "trace"):
            senders = [threading.Thread(target=hospital.push, args=(files,)) for files in studies]
            for sender in senders:
                sender.start()
            time.sleep(1)
            spoken = echo(node_of(hospital), "OTHER", 20)
            for sender in senders:
                sender.join()
        hospital.wait_answered()
        counts = hospital.count()
        hospital.node.check()
        trace = (tmp_path / "trace").read_text(errors="replace")

    assert "(DELAYED)" in trace
    threads, without, syncs = answers_and_syncs(trace)
    # Besides the instances the C-ECHO was answered: nothing is written for that.
    assert len(threads) == 3 * 34 + 1
    assert without == 1
    assert spoken.verdict == "ok"
    # They were served side by side: no one's last answer came before another one's first.
    spans = [
        (threads.index(thread), len(threads) - 1 - threads[::-1].index(thread))
        for thread in set(threads)
        if threads.count(thread) == 34
    ]
    assert len(spans) == 3
    assert max(first for first, _ in spans) < min(last for _, last in spans)
    settle(f"disk that takes {SYNC_S:g} s more for each sync", syncs, counts)
