"""The socket of an association: a whole PDU in few calls, within a size and a time."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from typing import Any

from pynetdicom.transport import AssociationSocket

from dicomnode.network.request import LARGEST_REQUEST_BYTES

# A peer that was told our largest PDU may miscount its headers, and some ignore it a little.
_MARGIN_BYTES = 64 * 2**10
# What is read and thrown away of a peer that was rejected or aborted and talks on.
_DRAINED_BYTES = 2**20
# What one call may read ahead: a whole message of 131 kB, and no flood.
_AHEAD_BYTES = 256 * 2**10
_FEW_BYTES = 1024
# Longest wait for the first bytes of something.
_WAIT_S = 0.005


class PromptSocket(AssociationSocket):
    """Reads a whole PDU at a time, and can take back what was read.

    Parameters
    ----------
    association
        Whose socket it is.
    connection
        The connected socket.
    first
        What was read of it already.
    timeout_s
        Longest time for one PDU in either direction.
    """

    def __init__(self, association: Any, connection: socket.socket, first: bytes, timeout_s: float) -> None:
        super().__init__(association, client_socket=connection)
        # What was read and not used: the bytes from `_start` to `_end`.
        self._buffer = bytearray(first)
        self._start, self._end = 0, len(first)
        self._timeout_s = timeout_s
        self._largest_bytes = LARGEST_REQUEST_BYTES
        self._drained_bytes = 0

    def accept_up_to(self, maximum_pdu_bytes: int) -> None:
        """Take PDUs of the size that was announced, and a margin."""
        self._largest_bytes = maximum_pdu_bytes + _MARGIN_BYTES

    def recv(self, nr_bytes: int) -> bytearray:
        """Return `nr_bytes` bytes, fewer when the peer has closed."""
        return bytearray(self.read(nr_bytes))

    def read(self, count: int) -> memoryview:
        """Return `count` bytes, fewer when the peer has closed; they are valid until the next call.

        Raises
        ------
        ConnectionAbortedError
            The peer announces a PDU that is larger than it was told.
        OSError
            The bytes do not come in time, or the connection is reset.
        """
        if count > self._largest_bytes:
            raise ConnectionAbortedError("a PDU that is larger than network.maximum_pdu_bytes")
        if self._end - self._start < count:
            self._fetch(count)
        start = self._start
        self._start = min(start + count, self._end)
        return memoryview(self._buffer)[start : self._start]

    def _fetch(self, count: int) -> None:
        """Have `count` bytes in the buffer, fewer when the peer has closed.

        Of a few bytes (a header) nobody knows what follows: one call takes all that is there. The rest of a
        long PDU is on its way, and one call waits for it.
        """
        self._make_room(count)
        connection, view = self.socket, memoryview(self._buffer)
        limit, flags, deadline = len(view), 0, time.monotonic() + self._timeout_s
        # TLS takes no flags, and gives a record of at most 16 KiB a call.
        if count > _FEW_BYTES and not isinstance(connection, ssl.SSLSocket):
            limit, flags = self._start + count, socket.MSG_WAITALL
        while connection is not None and (missing := self._start + count - self._end) > 0:
            try:
                received = connection.recv_into(view[self._end : limit], 0, flags)
            except BlockingIOError:
                received = -1
            if not received:
                break
            self._end += max(received, 0)
            if received < missing and time.monotonic() > deadline:
                raise TimeoutError("a PDU that does not end")

    def await_bytes(self) -> bool:
        """Return whether there is something to read, or the end, after at most `_WAIT_S`."""
        connection = self.socket
        if self.has_unread or connection is None:
            return self.has_unread
        if isinstance(connection, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                return bool(select.select([connection], [], [], _WAIT_S)[0])
            return False
        self._make_room(_FEW_BYTES)
        try:
            # Reads what there is: one call less than to ask first.
            self._end += connection.recv_into(memoryview(self._buffer)[self._end :])
        except OSError:
            # Nothing in this time; or it is closed or reset, as the library's own look will find.
            return False
        return True

    def _make_room(self, count: int) -> None:
        """Let `count` bytes, and some more, fit into the buffer behind `_start`."""
        if self._start + count <= len(self._buffer) and self._start < self._end:
            return
        ahead = bytes(self._buffer[self._start : self._end])
        # Who only asks for an echo needs no more than a little.
        needed_bytes = max(count, _AHEAD_BYTES if count > _FEW_BYTES else 8 * _FEW_BYTES)
        if len(self._buffer) < needed_bytes:
            self._buffer = bytearray(needed_bytes)
        self._buffer[: len(ahead)] = ahead
        self._start, self._end = 0, len(ahead)

    def unread(self, count: int) -> None:
        """Give back the last `count` bytes that were read, so that they are read again."""
        self._start -= count

    def _forget(self) -> None:
        self._start = self._end = 0

    @property
    def has_unread(self) -> bool:
        """Whether something was read and not used, or waits decrypted: `select` would wait for more."""
        return self._start < self._end or (
            isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0
        )

    @property
    def ready(self) -> bool:
        """Return whether there is something to read."""
        return self._start < self._end or super().ready

    def drain(self) -> bool:
        """Throw away what a peer says that was rejected or aborted.

        False when there is nothing (more) to wait for.
        """
        self._forget()
        connection = self.socket
        # Closing with unread bytes would reset the connection, and the peer would miss why.
        if (
            connection is None
            or isinstance(connection, ssl.SSLSocket)
            or self._drained_bytes > _DRAINED_BYTES
        ):
            return False
        try:
            count = len(connection.recv(2**16, socket.MSG_DONTWAIT))
        except OSError:
            return False
        self._drained_bytes += count
        return count > 0

    def close_now(self) -> None:
        """Close whatever the library thinks of it, and forget what was read."""
        connection, self.socket = self.socket, None
        self._is_connected = False
        self._buffer = bytearray()
        self._forget()
        if connection is not None:
            # A close alone wakes nobody who reads it in another thread.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _shutdown_socket(self) -> None:
        super()._shutdown_socket()
        # Where the peer has reset the connection the library gets no further than the shutdown.
        if self.socket is not None:
            self.socket.close()


def set_timeouts(connection: socket.socket, timeout_s: float) -> None:
    """Bound each call of a blocking socket: sending by `timeout_s`, reading by a moment.

    As options of the socket and not as Python's own timeout, which makes the socket non-blocking: one call
    could not read a whole PDU then. TLS is read by `timeout_s` too: half a record is no fault.
    """
    reading_s = timeout_s if isinstance(connection, ssl.SSLSocket) else _WAIT_S
    for option, seconds in ((socket.SO_RCVTIMEO, reading_s), (socket.SO_SNDTIMEO, timeout_s)):
        connection.setsockopt(
            socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        )
