"""What an orderly stop leaves behind: word that every file is listed; the next start then compares nothing.

To compare the names of a million files with the ledger's rows takes seconds, and many on a cold disk.

Rules for this file:
1. The note is gone from the disk before anything is received.
2. It counts only for the very folders and the very ledger that it was written for, untouched since.
"""

from __future__ import annotations

import json
import os
import time

from dicomnode.spool.layout import SpoolLayout, sync_folder
from dicomnode.spool.writer import write_durably

NOTE = "listed.json"
# File systems note a time a clock tick late, which lasts up to 10 ms: of what happens within one no time
# tells.
_TICK_NS = 20_000_000
_SETTLE_S = 0.05

Extent = tuple[int, int]
"""How many instances a ledger lists, and the largest number of one."""


def note_all_listed(layout: SpoolLayout, extent: Extent) -> bool:
    """Note that every file of the spool has a row, and every row a file, as a ledger of `extent` holds them.

    Only for whoever receives, when nothing is left to be listed. Returns whether it was noted: not where a
    folder changed just now, nor where the disk refuses.
    """
    # The last files were made a moment ago.
    time.sleep(_SETTLE_S)
    try:
        now_ns, folders = time.time_ns(), _look_at(layout)
        if any(changed_ns > now_ns - _TICK_NS for _, changed_ns in folders.values()):
            return False
        write_durably(layout.root / NOTE, (_encode(extent, folders),), keep_existing=False)
    except OSError:
        return False
    return True


def take_note(layout: SpoolLayout, extent: Extent) -> bool:
    """Take the note away, and return whether it is true of these folders and a ledger of this extent."""
    path = layout.root / NOTE
    try:
        note = path.read_bytes()
        path.unlink()
        sync_folder(layout.root)
        return note == _encode(extent, _look_at(layout))
    except OSError:
        return False


def _encode(extent: Extent, folders: dict[str, tuple[int, int]]) -> bytes:
    return json.dumps({"extent": extent, "folders": folders}).encode()


def _look_at(layout: SpoolLayout) -> dict[str, tuple[int, int]]:
    """Return number and time of the last change of each folder of received instances.

    The time of its inode (ctime), which a copy does not bring along.
    """
    with os.scandir(layout.incoming) as entries:
        states = {entry.name: entry.stat() for entry in entries}
    return {name: (state.st_ino, state.st_ctime_ns) for name, state in sorted(states.items())}
