"""Everything that was written behind, brought to the disk at once."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

# Before Linux 5.8 syncfs says that all is well whatever became of what it wrote (syncfs(2)).
_TELLS_ERRORS = (5, 8)


class FileSystem:
    """The file system of a folder.

    It has to be opened before anything is written that `sync` answers for: an error is told to whoever had
    the file system open when it came to be.
    """

    def __init__(self, folder: Path) -> None:
        self._handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._syncfs = _find_syncfs()

    def sync(self) -> bool:
        """Bring all that was written to it to the disk; return whether it is there for certain.

        False where the disk refused some of it since the last call, or where this system does not say so.
        """
        return self._syncfs is not None and self._syncfs(self._handle) == 0

    def close(self) -> None:
        """Close it."""
        os.close(self._handle)


def _find_syncfs() -> ctypes._NamedFuncPointer | None:
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if os.uname().sysname != "Linux" or release is None:
        return None
    if (int(release[1]), int(release[2])) < _TELLS_ERRORS:
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
