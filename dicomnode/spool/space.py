"""How much room there must be on the disk before another instance is taken."""

from __future__ import annotations

import os
import time
from pathlib import Path

import structlog

from dicomnode.errors import OutOfResources

log = structlog.get_logger()

# Where there is so much more room than is asked for, the disk is asked again only after this time.
_PLENTY_BYTES = 1024 * 2**20
_TRUSTED_S = 0.05


class FreeSpace:
    """Two marks of free space: below the first nothing is taken, from the second on again.

    A disk at one mark would take one instance and refuse the next.

    Parameters
    ----------
    folder
        On the disk in question.
    minimum_free_bytes
        An instance that would leave less free space is refused.
    resume_free_bytes
        Once one was refused, so much must be free before another is taken.
    """

    def __init__(self, folder: Path, minimum_free_bytes: int, resume_free_bytes: int = 0) -> None:
        self._folder = folder
        self._full = False
        # Free bytes when the disk was last asked, and until when that is good enough (`time.monotonic`).
        self._last_answer = (0, 0.0)
        self.set_limits(minimum_free_bytes, resume_free_bytes)

    def set_limits(self, minimum_free_bytes: int, resume_free_bytes: int) -> None:
        """Take other marks from now on."""
        self._minimum_free_bytes = minimum_free_bytes
        self._resume_free_bytes = max(minimum_free_bytes, resume_free_bytes)

    def has_room(self, size_bytes: int) -> bool:
        """Return whether so many bytes would leave the first mark free; `OSError` when nobody can say."""
        return self._free_bytes() - size_bytes >= self._minimum_free_bytes

    def require(self, size_bytes: int) -> None:
        """Raise `OutOfResources` when so many bytes are not to be taken; `OSError` when nobody can say."""
        if not self._full and self._has_plenty(size_bytes):
            return
        free_bytes = self._free_bytes()
        if free_bytes - size_bytes >= (self._resume_free_bytes if self._full else self._minimum_free_bytes):
            if self._full:
                log.info("spool_takes_instances_again", free_bytes=free_bytes)
            self._full = False
            return
        if not self._full:
            log.error(
                "spool_full",
                free_bytes=free_bytes,
                advice="free some space: instances are answered 0xA700, work and delivery go on",
            )
        self._full = True
        raise OutOfResources(
            "less free space than storage.minimum_free_mb, or not yet storage.resume_free_mb again"
        )

    def _has_plenty(self, size_bytes: int) -> bool:
        """Return whether there was far more room than is asked for when the disk was last asked, just now."""
        free_bytes, trusted_until = self._last_answer
        is_plenty = free_bytes - size_bytes - _PLENTY_BYTES >= self._resume_free_bytes
        return is_plenty and time.monotonic() < trusted_until

    def _free_bytes(self) -> int:
        state = os.statvfs(self._folder)
        free_bytes = state.f_bavail * state.f_frsize
        self._last_answer = (free_bytes, time.monotonic() + _TRUSTED_S)
        return free_bytes
