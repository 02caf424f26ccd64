"""A bell between `receive` and `work` on one machine: that something came, not what.

A lost ring is no loss: whoever is rung looks into the ledger, and looks there without being rung, too, only
later. So nothing is ever waited for here.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger()

BELL_NAME = "work.bell"
_POLL_S = 0.5


def ring(root: Path) -> bool:
    """Ring the bell of the node whose folder this is; False when nobody listens."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.setblocking(False)
        folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            line.sendto(b"!", _address(folder))
        finally:
            os.close(folder)
        return True
    return False


def open_bell(root: Path, on_ring: Callable[[], None]) -> Bell | None:
    """Return a bell in a node's folder; None, with a warning, where its file system has no sockets."""
    try:
        return Bell(root, on_ring)
    except OSError as problem:
        log.warning(
            "bell_not_opened",
            reason=problem.strerror,
            advice="work looks into the ledger every compute.poll_s instead of at once",
        )
        return None


class Bell:
    """Listens in a node's folder and calls `on_ring` for every ring, in a thread of its own.

    Parameters
    ----------
    root
        The node's folder; who cannot look into it cannot ring.
    on_ring
        Must return soon; several rings that come meanwhile are one.
    """

    def __init__(self, root: Path, on_ring: Callable[[], None]) -> None:
        self._on_ring = on_ring
        self._stopping = threading.Event()
        (root / BELL_NAME).unlink(missing_ok=True)
        folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._line.settimeout(_POLL_S)
        try:
            self._line.bind(_address(folder))
        except OSError:
            self._line.close()
            raise
        finally:
            os.close(folder)
        (root / BELL_NAME).chmod(0o600)
        self._path = root / BELL_NAME
        self._thread = threading.Thread(target=self._listen, name="bell", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and remove the bell."""
        self._stopping.set()
        self._thread.join(2 * _POLL_S)
        self._line.close()
        self._path.unlink(missing_ok=True)

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                self._line.recv(16)
            except TimeoutError:
                continue
            except OSError:
                return
            self._drain()
            if not self._stopping.is_set():
                self._on_ring()

    def _drain(self) -> None:
        self._line.setblocking(False)
        with suppress(OSError):
            while self._line.recv(16):
                pass
        self._line.settimeout(_POLL_S)


def _address(folder: int) -> str:
    """Return the bell's address by its open folder: a socket's path may have 108 bytes, a folder's more."""
    return f"/proc/self/fd/{folder}/{BELL_NAME}"
