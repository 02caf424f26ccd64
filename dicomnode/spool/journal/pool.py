"""The segments of the journal: which one is written, which wait to be made files, which are ready.

    ready -> active -> sealed -> (all of it files, and those on the disk) -> ready with another generation

Rules for this file:
1. A segment that was sealed takes no record; only one that has nothing pending is handed out to be recycled.
2. There is never more than `limit` of them: what does not fit goes into the spool the long way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from dicomnode.spool.journal.record import BLOCK_BYTES
from dicomnode.spool.journal.segment import Acknowledged, Segment, make_segment, remove_segment, renew_segment
from dicomnode.spool.space import FreeSpace

log = structlog.get_logger()

SEGMENT_BYTES = 64 * 2**20
# What is quiet, or old, is made files and given back: after a power cut there is little to be read again, and
# nothing that retention has removed meanwhile.
_QUIET_S = 2.0
_OLD_S = 60.0
_TRY_AGAIN_S = 60.0


class SegmentPool:
    """Hands out room in segments. Thread-safe.

    Parameters
    ----------
    folder
        Where they lie.
    limit
        How many there may be.
    segment_bytes
        Size of a new one.
    space
        Whether the disk has room for another.
    clock
        Seconds, for what is quiet or old.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        segment_bytes: int,
        space: FreeSpace,
        clock: Callable[[], float],
    ) -> None:
        self._folder, self._limit, self._segment_bytes = folder, limit, segment_bytes
        self._space, self._clock = space, clock
        self._gate = threading.Lock()
        self._active: Segment | None = None
        self._ready: list[Segment] = []
        self._sealed: list[Segment] = []
        # Files that are there and not ours to use: what they hold could not be made files at the start.
        self._foreign = 0
        self._is_closed = False
        self._next_try_at = self._reserved_at = 0.0

    def adopt(self, empty: Iterable[Segment], full: int) -> None:
        """Take the segments that were found at the start: those that may be written, and how many may not."""
        self._ready += empty
        self._foreign = full

    def reserve(self, length: int) -> tuple[Segment, int] | None:
        """Return a segment and the offset of `length` bytes in it; None when the journal cannot take them."""
        now = self._clock()
        if length > self._segment_bytes - BLOCK_BYTES:
            return None
        with self._gate:
            if self._is_closed:
                return None
            self._reserved_at = now
            if self._active is not None:
                offset = self._active.reserve(length, now)
                if offset is not None:
                    return self._active, offset
                # A large record must not close a segment that has room for many others.
                if not self._active.is_broken and length > self._segment_bytes // 8:
                    return None
                self._seal_active()
            return self._reserve_in_next(length, now)

    def _reserve_in_next(self, length: int, now: float) -> tuple[Segment, int] | None:
        while self._ready:
            segment = self._ready.pop(0)
            try:
                segment.open()
            except OSError as problem:
                # Read-only, say; the long way has the words for it.
                log.warning("journal_segment_not_opened", reason=problem.strerror)
                self._ready.append(segment)
                return None
            self._active = segment
            offset = segment.reserve(length, now)
            return None if offset is None else (segment, offset)
        return None

    def refuse(self, segment: Segment) -> None:
        """Note that a record could not be written or synced: its segment is closed for good."""
        with self._gate:
            segment.pending -= 1
            segment.is_broken = True
            if segment is self._active:
                self._seal_active()

    def note_filed(self, entries: Iterable[Acknowledged]) -> None:
        """Note that instances are files and listed: nothing more is to be done for their records."""
        with self._gate:
            for entry in entries:
                if entry.segment is not None:
                    entry.segment.pending -= 1
                    entry.segment.filed.append(entry)

    def seal(self, *, everything: bool = False) -> None:
        """Seal the active segment if it is quiet or old, or, with `everything`, if it holds anything."""
        now = self._clock()
        with self._gate:
            active = self._active
            if active is not None and (
                everything or now - active.last_at >= _QUIET_S or now - active.first_at >= _OLD_S
            ):
                self._seal_active()

    def _seal_active(self) -> None:
        if self._active is not None:
            self._sealed.append(self._active)
            self._active = None

    @property
    def is_idle(self) -> bool:
        """Whether no segment holds anything, and none is missing."""
        with self._gate:
            return self._active is None and not self._sealed and not self._lacks_spare()

    def take_filed(self, *, everything: bool = False) -> list[Segment]:
        """Return the sealed segments with nothing pending; they are the caller's to recycle.

        While images pour in and another segment is ready they are left for later, unless they are old or with
        `everything`: the sync of all files would keep those waiting who wait for the sync of their record.
        """
        now = self._clock()
        with self._gate:
            may_wait = not everything and self._ready and now - self._reserved_at < _QUIET_S
            filed = [
                segment
                for segment in self._sealed
                if segment.pending == 0 and not (may_wait and now - segment.first_at < _OLD_S)
            ]
            self._sealed = [segment for segment in self._sealed if segment not in filed]
        return filed

    def give_back(self, segments: Iterable[Segment]) -> None:
        """Take back segments that could not be recycled yet."""
        with self._gate:
            self._sealed += segments

    def recycle(self, segment: Segment) -> None:
        """Make a segment ready again whose instances are files on the disk; remove a broken one."""
        segment.close()
        try:
            if segment.is_broken or segment.size_bytes != self._segment_bytes:
                remove_segment(segment.path)
                return
            renewed = renew_segment(segment.path, segment.size_bytes)
        except OSError as problem:
            # It is read again at the next start, which finds the files there.
            log.warning("journal_segment_lost", segment=segment.path.name, reason=problem.strerror)
            with self._gate:
                self._foreign += 1
            return
        with self._gate:
            self._ready.append(renewed)

    def make_spare(self) -> None:
        """Make another segment where none is ready; without room on the disk it is tried again later."""
        with self._gate:
            if not self._lacks_spare() or self._clock() < self._next_try_at:
                return
        try:
            if not self._space.has_room(self._segment_bytes):
                self._next_try_at = self._clock() + _TRY_AGAIN_S
                return
            segment = make_segment(self._free_path(), self._segment_bytes)
        except OSError as problem:
            self._next_try_at = self._clock() + _TRY_AGAIN_S
            log.warning("journal_segment_not_made", reason=problem.strerror)
            return
        with self._gate:
            self._ready.append(segment)

    def _lacks_spare(self) -> bool:
        """Return whether another segment is to be made: two where nobody writes, else one that is ready.

        Filled with zeros while images pour in, the second would keep those waiting who wait for their sync.
        """
        count = len(self._ready) + len(self._sealed) + (self._active is not None) + self._foreign
        few = 2 if self._active is None and not self._sealed else 1
        return len(self._ready) < few and count < self._limit

    def _free_path(self) -> Path:
        number = 0
        while (path := self._folder / f"{number:04d}.segment").exists():
            number += 1
        return path

    def close(self) -> None:
        """Hand out no more room, and close what nobody writes; the records are read at the next start."""
        with self._gate:
            self._is_closed = True
            for segment in self._sealed:
                # One that somebody writes in at this moment stays open: its number must not become another
                # file's.
                if segment.pending == 0:
                    segment.close()
