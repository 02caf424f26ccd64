"""Locks on files that the kernel frees however a process ends, on systems with and without `fcntl`."""

from __future__ import annotations

import importlib
from typing import IO, Any


def lock_file(handle: IO[Any]) -> None:
    """Take the lock of an open file, or raise OSError at once where another process has it."""
    try:
        fcntl = importlib.import_module("fcntl")
    except ImportError:
        # Windows locks bytes: the first one stands for the file.
        msvcrt = importlib.import_module("msvcrt")
        handle.seek(0)
        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
