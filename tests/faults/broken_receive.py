"""`dicomnode receive`, broken on purpose: the power-cut test has to notice. Used by tests only.

python tests/faults/broken_receive.py BREAK CONFIG
"""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from dicomnode.processes.app import run_receive
from dicomnode.records import ReceivedInstance
from dicomnode.settings.config import load_config
from dicomnode.spool.journal import pool
from dicomnode.spool.journal.commit import GroupCommit
from dicomnode.spool.journal.disk import FileSystem
from dicomnode.spool.journal.pool import SegmentPool
from dicomnode.spool.journal.segment import Acknowledged, Segment
from dicomnode.spool.layout import sync_folder
from dicomnode.spool.writer import SpoolWriter

_LATER_S = 0.3
EXPIRING, EXPIRED = "expiring", "expired"
SEGMENTS = 5


def _no_file_fsync() -> None:
    really = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            really(handle)

    os.fsync = fsync


def _no_folder_fsync() -> None:
    really = os.fsync

    def fsync(handle: int) -> None:
        if not (
            stat.S_ISDIR(os.fstat(handle).st_mode)
            and "/spool/incoming/" in str(Path(f"/proc/self/fd/{handle}").readlink())
        ):
            really(handle)

    os.fsync = fsync


def _answer_first() -> None:
    write = SpoolWriter.write

    def write_later(self: SpoolWriter, encoded_dataset: bytes | bytearray, **names: Any) -> ReceivedInstance:
        def later() -> None:
            time.sleep(_LATER_S)
            write(self, encoded_dataset, **names)

        threading.Thread(target=later).start()
        now = names.pop("now")
        path = self.layout.instance_path(names["SOPInstanceUID"], "0" * 64)
        return ReceivedInstance(
            **names, path=path, sha256="0" * 64, size_bytes=len(encoded_dataset), received_at=now
        )

    SpoolWriter.write = write_later  # type: ignore[method-assign]
    SpoolWriter.holds = lambda _self, _instance: True  # type: ignore[method-assign]


def _journal_answers_before_the_sync() -> None:
    commit = GroupCommit.__call__

    def commit_later(self: GroupCommit) -> None:
        def later() -> None:
            time.sleep(_LATER_S)
            commit(self)

        threading.Thread(target=later).start()

    GroupCommit.__call__ = commit_later  # type: ignore[method-assign]


def _journal_takes_any_sync() -> None:
    """Let everybody go who waits when a sync ends, whenever it began."""
    gate, state = threading.Condition(), {"syncs": 0, "is_syncing": False}

    def commit(self: GroupCommit) -> None:
        with gate:
            if state["is_syncing"]:
                before = state["syncs"]
                gate.wait_for(lambda: state["syncs"] > before)
                return
            state["is_syncing"] = True
        self._sync()
        # As a disk that takes its time: what is written meanwhile is not covered.
        time.sleep(0.05)
        with gate:
            state["is_syncing"] = False
            state["syncs"] += 1
            gate.notify_all()

    GroupCommit.__call__ = commit  # type: ignore[method-assign]


def _journal_recycles_at_once() -> None:
    FileSystem.sync = lambda _self: True  # type: ignore[method-assign]


BREAKS = {
    "whole": lambda: None,
    "no fsync of the file": _no_file_fsync,
    "no fsync of the folder": _no_folder_fsync,
    "answered before the write": _answer_first,
}

JOURNAL_BREAKS = {
    "whole": lambda: None,
    "answered before the sync": _journal_answers_before_the_sync,
    "sync begun before the write": _journal_takes_any_sync,
    "recycled before syncfs": _journal_recycles_at_once,
}


def make_small(root: Path) -> None:
    """Make the journal small enough to be recycled many times in a recording, and its threads meet in every way.

    What a recycled segment held of the first sender is taken away, as retention does; that it will be and that it was is noted durably.
    """
    pool.SEGMENT_BYTES = 64 * 1024
    pool._QUIET_S = 0.5
    wrote, recycle, chance = Segment.write, SegmentPool.recycle, random.Random(1)
    make = SegmentPool.__init__

    def make_with_few(self: SegmentPool, folder: Path, _limit: int, *rest: Any) -> None:
        make(self, folder, SEGMENTS, *rest)

    def write_unevenly(self: Segment, offset: int, buffers: Sequence[bytes | bytearray]) -> None:
        # Between its place and its write others write, and are acknowledged, behind it.
        if chance.random() < 0.3:
            time.sleep(chance.uniform(0.01, 0.1))
        wrote(self, offset, buffers)

    def recycle_and_expire(self: SegmentPool, segment: Segment) -> None:
        recycle(self, segment)
        _expire(root, [entry for entry in segment.filed if entry.instance.calling_ae == "S0"])

    SegmentPool.__init__ = make_with_few  # type: ignore[method-assign]
    Segment.write = write_unevenly  # type: ignore[method-assign]
    SegmentPool.recycle = recycle_and_expire  # type: ignore[method-assign]


def _expire(root: Path, entries: Sequence[Acknowledged]) -> None:
    uids = "".join(f"{entry.instance.SOPInstanceUID}\n" for entry in entries)
    _note(root, EXPIRING, uids)
    with closing(sqlite3.connect(root / "ledger.sqlite3", timeout=60)) as connection, connection:
        for entry in entries:
            path = root / "spool" / entry.instance.path
            path.unlink()
            sync_folder(path.parent)
            connection.execute("DELETE FROM instances WHERE path = ?", (entry.instance.path,))
    _note(root, EXPIRED, uids)


def _note(root: Path, name: str, text: str) -> None:
    with (root / name).open("a") as noted:
        noted.write(text)
        noted.flush()
        os.fsync(noted.fileno())
    sync_folder(root)


if __name__ == "__main__":
    config = load_config(Path(sys.argv[2]))
    if config.storage.journal_mb:
        make_small(config.storage.root)
        JOURNAL_BREAKS[sys.argv[1]]()
    else:
        BREAKS[sys.argv[1]]()
    run_receive(config)
