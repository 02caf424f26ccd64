"""One generation of one preallocated file of the journal.

The file has its length, its blocks and its name on the disk before a record is written: what a sync of a
record brings to the disk are data blocks that are mapped already, and no metadata.

Rules for this file:
1. A segment whose write or sync failed is closed for good: it takes no record, and its file is removed
   instead of written again.
2. A file gets a new generation only when its caller has made safe, elsewhere, all that it holds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicomnode.records import ReceivedInstance
from dicomnode.spool.journal.commit import GroupCommit
from dicomnode.spool.journal.record import BLOCK_BYTES, encode_segment_header, new_generation
from dicomnode.spool.layout import sync_folder

_ZEROS = bytes(2**20)
_DRAFT_SUFFIX = ".draft"


class Segment:
    """One generation of a segment file: records are appended to it, then it is recycled or removed.

    Not thread-safe but for `write`, `commit` and `read`: whoever owns it (`pool.SegmentPool`) holds a lock.

    Parameters
    ----------
    path
        The file, which has its full length.
    size_bytes
        That length.
    generation
        The one that is in its header, on the disk.
    """

    def __init__(self, path: Path, size_bytes: int, generation: bytes) -> None:
        self.path, self.size_bytes, self.generation = path, size_bytes, generation
        self.is_broken = False
        self.pending = 0
        """Records that were reserved and are neither refused nor listed as files."""
        self.filed: list[Acknowledged] = []
        """What was made files of it, for the case that the disk refuses those."""
        self.first_at = self.last_at = 0.0
        """When the first and the last record were reserved, by the caller's clock."""
        self.commit = GroupCommit(self._sync)
        self._handle, self._end = -1, BLOCK_BYTES

    @property
    def is_used(self) -> bool:
        """Whether something was written, or was to be."""
        return self._end > BLOCK_BYTES

    def open(self) -> None:
        """Open it for writing; `OSError` when that cannot be."""
        self._handle = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Close it; an idle journal holds no file open."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def reserve(self, length: int, now: float) -> int | None:
        """Return the offset of `length` bytes (whole blocks) that are the caller's; None without room."""
        offset = self._end
        if self.is_broken or offset + length > self.size_bytes:
            return None
        self.first_at = self.first_at if self.is_used else now
        self.last_at = now
        self._end += length
        self.pending += 1
        return offset

    def write(self, offset: int, buffers: Sequence[bytes | bytearray]) -> None:
        """Write buffers, one after the other, at an offset that was reserved; `OSError` when that fails."""
        remaining = [memoryview(buffer) for buffer in buffers if buffer]
        while remaining:
            written = os.pwritev(self._handle, remaining, offset)
            offset += written
            while remaining and written >= len(remaining[0]):
                written -= len(remaining.pop(0))
            if remaining:
                remaining[0] = remaining[0][written:]

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` with bytes; `OSError` when they cannot be read, all of them."""
        if os.preadv(self._handle, [view], offset) < len(view):
            raise OSError("a segment of the journal is shorter than it was")

    def _sync(self) -> None:
        os.fdatasync(self._handle)


@dataclass(frozen=True)
class Acknowledged:
    """An instance that is safe: in a segment, or, without one, as a file already.

    `offset` is where its Part 10 head begins in the segment; the dataset follows the head.
    """

    instance: ReceivedInstance
    segment: Segment | None = None
    offset: int = 0
    head_bytes: int = 0


def make_segment(path: Path, size_bytes: int) -> Segment:
    """Make a segment file, filled with zeros; when this returns a power cut cannot take it back.

    Only reserved (`fallocate`), its blocks would be marked as unwritten, and each sync would have to change
    that.

    Raises
    ------
    OSError
        There is no room, or the disk refuses; nothing is left behind.
    """
    draft, generation = path.with_name(path.name + _DRAFT_SUFFIX), new_generation()
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            for offset in range(0, size_bytes, len(_ZEROS)):
                _write_whole(handle, _ZEROS[: size_bytes - offset], offset)
            _write_whole(handle, encode_segment_header(generation), 0)
            os.fsync(handle)
        finally:
            os.close(handle)
        draft.rename(path)
        sync_folder(path.parent)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return Segment(path, size_bytes, generation)


def renew_segment(path: Path, size_bytes: int) -> Segment:
    """Give a segment file a new generation, durably: the records that it holds count no longer.

    `OSError` when that fails.
    """
    generation = new_generation()
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _write_whole(handle, encode_segment_header(generation), 0)
        os.fdatasync(handle)
    finally:
        os.close(handle)
    return Segment(path, size_bytes, generation)


def remove_segment(path: Path) -> None:
    """Remove a segment file, durably; `OSError` when that fails."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def remove_drafts(folder: Path) -> None:
    """Remove what was left of segments that were not made to their end."""
    for draft in folder.glob(f"*{_DRAFT_SUFFIX}"):
        draft.unlink(missing_ok=True)


def _write_whole(handle: int, data: bytes, offset: int) -> None:
    written = os.pwrite(handle, data, offset)
    if written < len(data):
        raise OSError("the disk took only a part of a segment")
