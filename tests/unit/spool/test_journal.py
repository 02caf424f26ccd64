"""The journal: what is acknowledged is in it, becomes files and rows, and survives whatever fails."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from dicomnode.errors import NotUnderstood, OutOfResources, RetryLater
from dicomnode.ledger.ledger import Ledger
from dicomnode.processes.turns import await_replay, only_receiver
from dicomnode.records import AddOutcome, ReceivedInstance
from dicomnode.spool.journal import backlog as backlog_module
from dicomnode.spool.journal.commit import GroupCommit
from dicomnode.spool.journal.disk import FileSystem
from dicomnode.spool.journal.record import (
    BLOCK_BYTES,
    decode_segment_header,
    encode_record,
    encode_segment_header,
    new_generation,
    read_records,
    record_bytes,
)
from dicomnode.spool.journal.replay import Replayed, replay_journal
from dicomnode.spool.journal.segment import Acknowledged, Segment
from dicomnode.spool.journal.spool import JournalSpool
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.recover import rebuild_ledger
from dicomnode.spool.writer import SpoolWriter
from tests.factories.journal import left_half
from tests.factories.ledger import received

SEGMENT_BYTES = 128 * 1024
NOTHING = Replayed(0, (), 0)


class Rows:
    """A ledger that remembers what it was told, and fails when it is to."""

    def __init__(self) -> None:
        self.listed: list[ReceivedInstance] = []
        self.fault: Exception | None = None

    def list_all(self, instances: Sequence[ReceivedInstance]) -> list[AddOutcome | Exception]:
        if self.fault is not None:
            raise self.fault
        self.listed += instances
        return ["new"] * len(instances)


@pytest.fixture
def layout(tmp_path: Path) -> SpoolLayout:
    return SpoolLayout(tmp_path / "spool")


def dataset_of(number: int, size: int = 5000) -> bytes:
    return random.Random(number).randbytes(size)


def open_journal(layout: SpoolLayout, replayed: Replayed | None = None, segments: int = 4) -> JournalSpool:
    replayed = replay_journal(layout) if replayed is None else replayed
    return JournalSpool(SpoolWriter(layout, 0), segments * SEGMENT_BYTES, replayed, SEGMENT_BYTES)


def ready(journal: JournalSpool) -> JournalSpool:
    """Return a journal whose first segment is made: without one it writes files at once."""
    journal._pool.make_spare()
    assert journal._pool._ready
    return journal


def write(
    journal: JournalSpool | SpoolWriter, number: int, data: bytes | None = None, now: float = 5.0
) -> ReceivedInstance:
    return journal.write(
        dataset_of(number) if data is None else data,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4",
        SOPInstanceUID=f"1.2.3.{number}",
        TransferSyntaxUID="1.2.840.10008.1.2.1",
        calling_ae="SCANNER",
        peer_host="10.0.0.1",
        called_ae="NODE",
        now=now + number,
    )


def wait_until_it_fails(journal: JournalSpool) -> None:
    """Wait until filing was tried in vain; nothing that was acknowledged is listed then."""
    end = time.monotonic() + 60
    while journal._backlog._failure is None:
        assert time.monotonic() < end
        time.sleep(0.005)
    with pytest.raises(RetryLater):
        journal._backlog.settle(0.05)


def files_of(layout: SpoolLayout) -> set[str]:
    return {path.relative_to(layout.root).as_posix() for path in layout.incoming.rglob("*.dcm")}


# Records.


def segment_of(records: Sequence[tuple[bytes, bytes]], generation: bytes) -> bytearray:
    data = bytearray(encode_segment_header(generation))
    for head, dataset in records:
        sha256 = hashlib.sha256(dataset).hexdigest()
        data += b"".join(encode_record(generation, head, dataset, sha256, 1.5))
    return data


def test_records_are_read_back_as_they_were_written() -> None:
    generation, chance = new_generation(), random.Random(1)
    written = [
        (chance.randbytes(chance.randrange(1, 700)), chance.randbytes(size))
        for size in (1, 3900, 4096, 99_999)
    ]

    data = segment_of(written, generation)
    read = list(read_records(memoryview(data), generation))

    assert decode_segment_header(bytes(data[:BLOCK_BYTES])) == generation
    assert [(record.head, record.dataset) for record in read] == written
    assert {record.received_at for record in read} == {1.5}
    assert len(data) == BLOCK_BYTES + sum(record_bytes(len(head), len(dataset)) for head, dataset in written)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_torn_of_one_record_the_others_are_read(seed: int) -> None:
    generation, chance = new_generation(), random.Random(seed)
    written = [(b"head" * 50, chance.randbytes(chance.randrange(1, 20_000))) for _ in range(5)]
    data = segment_of(written, generation)
    torn = chance.randrange(5)
    start = BLOCK_BYTES + sum(record_bytes(200, len(dataset)) for _, dataset in written[:torn])
    length = 108 + 200 + len(written[torn][1])
    first = chance.randrange(length)
    last = min(length, first + chance.choice((1, 512, 4096, length)))
    was = bytes(data[start + first : start + last])
    data[start + first : start + last] = bytes(byte ^ 0xFF for byte in was)

    read = [record.dataset for record in read_records(memoryview(data), generation)]

    assert read == [dataset for number, (_, dataset) in enumerate(written) if number != torn]


def test_records_of_another_generation_and_records_inside_a_dataset_are_not_read() -> None:
    old, generation = new_generation(), new_generation()
    inner = segment_of([(b"head", b"somebody's record")], old)
    data = segment_of([(b"head", b"x" * (BLOCK_BYTES - 200)), (b"head", bytes(inner))], generation)
    data += segment_of([(b"head", b"of before")], old)[BLOCK_BYTES:]
    # The first block of the second record is torn: its dataset is looked through for other records.
    data[2 * BLOCK_BYTES] ^= 1

    assert [record.dataset for record in read_records(memoryview(data), generation)] == [
        b"x" * (BLOCK_BYTES - 200)
    ]
    assert [record.dataset for record in read_records(memoryview(data), old)] == [b"of before"]


@pytest.mark.parametrize("block", [b"", bytes(BLOCK_BYTES), b"DNSEGM01" + bytes(BLOCK_BYTES - 8)])
def test_what_is_no_header_gives_no_generation(block: bytes) -> None:
    assert decode_segment_header(block) is None


# Group commit.


def test_a_sync_that_began_before_a_write_lets_nobody_go_who_wrote_after() -> None:
    began, go_on, synced = threading.Semaphore(0), threading.Semaphore(0), []

    def sync() -> None:
        began.release()
        assert go_on.acquire(timeout=30)
        synced.append(1)

    commit = GroupCommit(sync)
    first = threading.Thread(target=commit)
    first.start()
    assert began.acquire(timeout=30)
    later = [threading.Thread(target=commit) for _ in range(3)]
    for thread in later:
        thread.start()
    go_on.release()
    first.join(30)

    # What came later is not let go by the sync that ran then, only by others that begin after it.
    assert began.acquire(timeout=30)
    assert [thread.is_alive() for thread in later] == [True] * 3
    for _ in later:
        go_on.release()
    for thread in later:
        thread.join(30)
    assert not any(thread.is_alive() for thread in later)
    assert 2 <= len(synced) <= 4


@pytest.mark.parametrize("seed", range(3))
def test_no_thread_is_let_go_before_a_sync_that_covers_it(seed: int) -> None:
    # What a sync covers is what was written when it began; each thread looks for its own write there.
    written, covered, chance = list[int](), set[int](), random.Random(seed)
    pauses = [chance.choice((0.0, 0.0, 0.0002)) for _ in range(600)]
    missed: list[int] = []

    def sync() -> None:
        at_the_begin = list(written)
        time.sleep(pauses[len(covered) % 600])
        covered.update(at_the_begin)

    commit = GroupCommit(sync)

    def write_some(first: int) -> None:
        for number in range(first, first + 100):
            written.append(number)
            commit()
            if number not in covered:
                missed.append(number)

    threads = [threading.Thread(target=write_some, args=(100 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert (missed, len(covered), any(thread.is_alive() for thread in threads)) == ([], 600, False)


def test_a_failed_sync_is_told_to_all_and_never_tried_again() -> None:
    calls = []

    def sync() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")

    commit = GroupCommit(sync)
    commit()
    for _ in range(3):
        with pytest.raises(OutOfResources, match="Input/output error"):
            commit()
    assert len(calls) == 2


# The whole.


def test_what_is_written_becomes_the_same_file_and_row_as_without_a_journal(tmp_path: Path) -> None:
    plain, journaled = SpoolLayout(tmp_path / "plain"), SpoolLayout(tmp_path / "journaled")
    expected = [write(SpoolWriter(plain, 0), number) for number in range(40)]
    rows = Rows()
    journal = ready(open_journal(journaled))
    journal.start(rows.list_all)
    received = [write(journal, number) for number in range(40)]
    journal.settle()
    safe = [journal.holds(instance) and journal.holds_whole(instance) for instance in received]
    journal.close()

    assert (received, rows.listed, all(safe)) == (expected, expected, True)
    for path in files_of(plain) | files_of(journaled):
        one, other = plain.root / path, journaled.root / path
        assert one.read_bytes() == other.read_bytes()
        assert (one.stat().st_mtime, one.stat().st_mode) == (other.stat().st_mtime, other.stat().st_mode)
    # An orderly end leaves nothing to be read again.
    assert replay_journal(journaled).records == 0
    assert 1 <= len(list(journaled.journal.iterdir())) <= 4


def test_what_was_acknowledged_and_not_filed_comes_back(layout: SpoolLayout, tmp_path: Path) -> None:
    # Nobody files: as if the process had been killed right after the answers.
    journal = ready(open_journal(layout))
    received = [write(journal, number) for number in range(15)]
    assert (files_of(layout), all(journal.holds(instance) for instance in received)) == (set(), True)

    replayed = replay_journal(layout)
    with closing(Ledger.open(f"sqlite:///{tmp_path / 'ledger'}")) as ledger:
        report = rebuild_ledger(layout, ledger.instances)
        rows = [row for _, row in ledger.instances.unindexed(100)]
    again = replay_journal(layout)

    assert (replayed.records, replayed.full, report.added, again.records) == (15, 0, 15, 0)
    assert rows == received


def test_a_file_that_a_power_cut_left_half_is_made_whole(layout: SpoolLayout) -> None:
    journal = ready(open_journal(layout))
    received = [write(journal, number) for number in range(3)]
    for instance, remains in zip(received, (b"", b"\0" * 5522, b"DICM"), strict=True):
        (layout.root / instance.path).write_bytes(remains)

    replay_journal(layout)

    assert all(SpoolWriter(layout, 0).holds_whole(instance) for instance in received)
    data = (layout.root / received[1].path).read_bytes()
    assert data.endswith(dataset_of(1))


def test_the_file_of_an_earlier_transfer_stays_the_earlier_one(layout: SpoolLayout) -> None:
    write(SpoolWriter(layout, 0), 1, now=-100.0)
    journal = ready(open_journal(layout))
    instance = write(journal, 1, now=7.0)

    replay_journal(layout)

    assert (layout.root / instance.path).stat().st_mtime == -99.0


def test_segments_are_recycled_and_what_they_held_is_never_read_again(layout: SpoolLayout) -> None:
    rows = Rows()
    journal = ready(open_journal(layout, segments=2))
    journal.start(rows.list_all)
    for number in range(150):
        write(journal, number)
    journal.close()
    names = sorted(path.name for path in layout.journal.iterdir())
    for path in files_of(layout):
        (layout.root / path).unlink()

    assert (replay_journal(layout).records, files_of(layout)) == (0, set())
    assert len(names) <= 2
    assert len(rows.listed) == 150


def test_a_full_journal_takes_the_long_way(layout: SpoolLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = ready(open_journal(layout, segments=1))
    received = [write(journal, number) for number in range(25)]
    huge = write(journal, 99, b"\1" * (2 * SEGMENT_BYTES))
    direct = files_of(layout)
    rows = Rows()
    journal.start(rows.list_all)
    journal.close()

    assert huge.path in direct
    assert 5 <= len(direct) < 25
    assert files_of(layout) == {instance.path for instance in [*received, huge]}
    assert rows.listed == [*received, huge]


def test_a_uid_that_is_none_is_refused(layout: SpoolLayout) -> None:
    journal = ready(open_journal(layout))
    with pytest.raises(NotUnderstood):
        journal.write(
            b"x",
            SOPClassUID="1.2",
            SOPInstanceUID="../x",
            TransferSyntaxUID="1.2",
            calling_ae="A",
            peer_host="",
            now=0.0,
        )


# Faults.


@pytest.mark.parametrize("call", ["fdatasync", "pwritev"])
def test_a_disk_that_refuses_closes_the_segment_for_good_and_loses_nothing(
    layout: SpoolLayout, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    journal = ready(open_journal(layout))
    before = [write(journal, number) for number in range(3)]
    broken = journal._pool._active
    assert broken is not None
    really: Callable[..., object] = getattr(os, call)
    calls: list[object] = []

    def refuse(handle: int, *arguments: object) -> object:
        if handle == broken._handle:
            calls.append(1)
            raise OSError(errno.EIO, "Input/output error")
        return really(handle, *arguments)

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OutOfResources, match="Input/output error"):
        write(journal, 10)
    after = [write(journal, number) for number in range(20, 23)]
    rows = Rows()
    journal.start(rows.list_all)
    journal.close()

    assert calls == [1]
    assert rows.listed == [*before, *after]
    assert files_of(layout) == {instance.path for instance in [*before, *after]}
    assert not broken.path.exists()


def test_a_failed_sync_refuses_the_whole_group(layout: SpoolLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = ready(open_journal(layout))
    write(journal, 0)
    all_wrote, outcomes = threading.Barrier(4), list[str]()
    wrote = Segment.write

    def write_together(self: Segment, offset: int, buffers: Sequence[bytes]) -> None:
        wrote(self, offset, buffers)
        all_wrote.wait(30)

    def refuse(_handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def send(number: int) -> None:
        try:
            write(journal, number)
            outcomes.append("0x0000")
        except OutOfResources as fault:
            outcomes.append(f"0x{fault.status:04X}")

    monkeypatch.setattr(Segment, "write", write_together)
    monkeypatch.setattr(os, "fdatasync", refuse)
    senders = [threading.Thread(target=send, args=(number,)) for number in range(1, 5)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(30)

    assert outcomes == ["0xA700"] * 4


def test_while_the_ledger_is_away_nothing_more_is_acknowledged_and_nothing_is_lost(
    layout: SpoolLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows()
    rows.fault = RetryLater("the ledger is locked")
    journal = ready(open_journal(layout))
    received = [write(journal, 0)]
    journal.start(rows.list_all)
    wait_until_it_fails(journal)
    with pytest.raises(RetryLater, match="the ledger is locked"):
        write(journal, 1)
    rows.fault = None
    journal.settle()
    received.append(write(journal, 1))
    journal.close()

    assert rows.listed == received


def test_a_ledger_that_is_away_at_the_end_gets_its_rows_at_the_next_start(
    layout: SpoolLayout, tmp_path: Path
) -> None:
    rows = Rows()
    rows.fault = RetryLater("the ledger is locked")
    journal = ready(open_journal(layout))
    received = [write(journal, number) for number in range(4)]
    journal.start(rows.list_all)
    journal.close()

    assert replay_journal(layout).records == 4
    with closing(Ledger.open(f"sqlite:///{tmp_path / 'ledger'}")) as ledger:
        rebuild_ledger(layout, ledger.instances)
        assert [row for _, row in ledger.instances.unindexed(100)] == received


def test_a_disk_that_is_full_when_files_are_made_keeps_the_records(
    layout: SpoolLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, is_full = os.writev, True

    def writev(handle: int, buffers: Sequence[bytes]) -> int:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really(handle, buffers)

    rows = Rows()
    journal = ready(open_journal(layout))
    received = [write(journal, number) for number in range(4)]
    monkeypatch.setattr(os, "writev", writev)
    journal.start(rows.list_all)
    wait_until_it_fails(journal)
    with pytest.raises(OutOfResources, match="No space left"):
        write(journal, 9)
    nothing_filed = (files_of(layout), list(rows.listed), left_half(layout.incoming))
    is_full = False
    journal.settle()
    journal.close()

    assert nothing_filed == (set(), [], set())
    assert rows.listed == received


def test_what_the_kernel_could_not_write_is_written_again_before_a_segment_is_recycled(
    layout: SpoolLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    really = os.fsync

    def fsync(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        really(handle)

    rows = Rows()
    journal = ready(open_journal(layout))
    received = [write(journal, number) for number in range(3)]
    monkeypatch.setattr(FileSystem, "sync", lambda _self: False)
    monkeypatch.setattr(os, "fsync", fsync)
    journal.start(rows.list_all)
    journal.close()

    names = [Path(instance.path).name for instance in received]
    assert all(any(name in path for path in synced) for name in names)
    assert replay_journal(layout).records == 0


def test_a_segment_whose_files_the_disk_refuses_is_not_recycled(
    layout: SpoolLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    journal = ready(open_journal(layout))
    received = [write(journal, number) for number in range(3)]
    monkeypatch.setattr(FileSystem, "sync", lambda _self: False)
    monkeypatch.setattr(os, "fsync", refuse)
    journal.start(Rows().list_all)
    journal.close()
    monkeypatch.undo()

    assert replay_journal(layout).records == len(received)


def test_what_retention_removes_meanwhile_is_filed_again(layout: SpoolLayout) -> None:
    journal = ready(open_journal(layout))
    rows = Rows()

    def list_and_expire(instances: Sequence[ReceivedInstance]) -> list[AddOutcome | Exception]:
        if not rows.listed:
            for instance in instances:
                (layout.root / instance.path).unlink()
        return rows.list_all(instances)

    instance = write(journal, 1)
    journal.start(list_and_expire)
    journal.close()

    assert files_of(layout) == {instance.path}
    assert rows.listed == [instance, instance]


def test_a_row_that_the_ledger_refuses_stands_in_nobodys_way(layout: SpoolLayout) -> None:
    rows = Rows()

    def list_all(instances: Sequence[ReceivedInstance]) -> list[AddOutcome | Exception]:
        outcomes = rows.list_all(instances)
        return [
            ValueError("no row") if "1.2.3.1" == row.SOPInstanceUID else outcome
            for row, outcome in zip(instances, outcomes, strict=True)
        ]

    journal = ready(open_journal(layout))
    received = [write(journal, number) for number in range(3)]
    journal.start(list_all)
    journal.settle()
    journal.close()

    assert files_of(layout) == {received[0].path, received[2].path}
    assert [path.name for path in layout.aside.iterdir()] == [Path(received[1].path).name]


def test_a_damaged_segment_stays_and_the_others_are_read(layout: SpoolLayout) -> None:
    journal = ready(open_journal(layout))
    write(journal, 0)
    damaged = layout.journal / "0007.segment"
    damaged.write_bytes(b"\1" * SEGMENT_BYTES)
    (layout.journal / "0008.segment").write_bytes(bytes(SEGMENT_BYTES))
    (layout.journal / "0009.segment.draft").write_bytes(b"half")

    replayed = replay_journal(layout)

    assert (replayed.records, len(replayed.empty), replayed.full) == (1, 1, 1)
    assert sorted(path.name for path in layout.journal.iterdir()) == ["0000.segment", "0007.segment"]


def test_a_full_disk_at_the_start_leaves_the_segment_for_the_next(
    layout: SpoolLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = ready(open_journal(layout))
    received = [write(journal, number) for number in range(3)]

    def writev(_handle: int, _buffers: Sequence[bytes]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "writev", writev)
    refused = replay_journal(layout)
    monkeypatch.undo()

    assert (refused.records, refused.empty, refused.full) == (0, (), 1)
    assert replay_journal(layout).records == 3
    assert files_of(layout) == {instance.path for instance in received}


def test_an_acknowledgement_waits_while_the_ledger_is_far_behind(
    layout: SpoolLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog_module, "_LONGEST_LAG_S", 0.0)
    monkeypatch.setattr(backlog_module, "_PATIENCE_S", 0.05)
    journal = ready(open_journal(layout))
    write(journal, 0)

    with pytest.raises(RetryLater, match="far behind"):
        write(journal, 1)
    journal.start(Rows().list_all)
    write(journal, 1)
    journal.close()


@pytest.mark.parametrize(("waiting", "left_at_s"), [(backlog_module._AT_ONCE - 1, 0.15), (200, 0.5)])
def test_what_comes_slowly_is_filed_sooner_than_what_pours_in(waiting: int, left_at_s: float) -> None:
    now_s = 0.0
    backlog = backlog_module.Backlog(lambda: now_s)
    for _ in range(waiting):
        backlog.add(Acknowledged(received(1)))
    gate = backlog._gate

    def wait(seconds: float) -> bool:
        nonlocal now_s
        # Meanwhile the next image has come: it is never calm.
        now_s += min(seconds, 0.01)
        backlog._newest_at = now_s
        return True

    gate.wait = wait  # type: ignore[method-assign, assignment]
    batch = backlog.next_batch(is_idle=False)

    assert len(batch) == min(waiting, backlog_module._AT_ONCE)
    assert now_s == pytest.approx(left_at_s)


def test_work_reads_the_journal_unless_receive_runs_and_has(layout: SpoolLayout, tmp_path: Path) -> None:
    journal = ready(open_journal(layout))
    instance = write(journal, 0)

    await_replay(tmp_path, layout)
    assert files_of(layout) == {instance.path}

    with only_receiver(tmp_path, layout) as replayed:
        running = JournalSpool(SpoolWriter(layout, 0), SEGMENT_BYTES, replayed, SEGMENT_BYTES)
        other = write(running, 1)
        # What runs is not read: its records are of now.
        await_replay(tmp_path, layout)
        assert files_of(layout) == {instance.path}
        assert running.holds(other)
