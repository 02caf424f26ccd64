"""Audit messages to a syslog server.

RFC 5424 messages over TLS (RFC 5425) or plain TCP (RFC 6587), from a thread of its own.
"""

from __future__ import annotations

import os
import queue
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from dicomnode.audit.events import KINDS

log = structlog.get_logger()

# RFC 5424 6.2.1: facility 10, security and authorization messages.
_FACILITY = 10
_WAITING = 10_000
_PAUSES_S = (1.0, 5.0, 30.0)
_TIMEOUT_S = 10.0
_BOM = b"\xef\xbb\xbf"


class SyslogSender:
    """Sends in the order of `put`.

    While the server is away up to 10,000 messages wait; more are dropped and counted in the log.

    The file of `AuditTrail` is the record; this is a copy of it.

    Parameters
    ----------
    connect
        Opens a connection, or raises `OSError`.
    """

    def __init__(self, connect: Callable[[], socket.socket], host_name: str) -> None:
        self._connect, self._host_name = connect, host_name
        self._queue: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._closing = threading.Event()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="audit-syslog", daemon=True)
        self._thread.start()

    def put(self, kind: str, message: bytes, now: float) -> None:
        """Hand a message over; never waits."""
        try:
            self._queue.put_nowait(frame(kind, message, now, self._host_name))
        except queue.Full:
            log.error(  # noqa: TRY400  a full queue has no trace that says more
                "audit_not_sent", kind=kind, reason="the syslog server is away for too long"
            )

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what waits, for so long at most."""
        self._closing.set()
        with_end = threading.Thread(target=self._queue.put, args=(None,), daemon=True)
        with_end.start()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (message := self._queue.get()) is not None:
            self._deliver(message)
        if self._connection is not None:
            self._connection.close()

    def _deliver(self, message: bytes) -> None:
        failures = 0
        while True:
            try:
                if self._connection is not None and _hung_up(self._connection):
                    self._connection.close()
                    self._connection = None
                if self._connection is None:
                    self._connection = self._connect()
                self._connection.sendall(message)
                return
            except OSError as problem:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                if failures == 0:
                    log.warning("audit_server_away", error=type(problem).__name__)
                if self._closing.wait(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)]):
                    return
                failures += 1


def _hung_up(connection: socket.socket) -> bool:
    """Return whether the server has closed the connection.

    A message that is written then is taken by the kernel and lost.
    """
    connection.setblocking(False)
    try:
        # A syslog server never speaks; with TLS this also takes in its session tickets.
        return connection.recv(1) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(_TIMEOUT_S)


def frame(kind: str, message: bytes, now: float, host_name: str) -> bytes:
    """Return an RFC 5424 message with the length in front (octet counting, RFC 5425 4.3.1).

    PS3.15 A.6: MSGID is DICOM+RFC3881.
    """
    priority = _FACILITY * 8 + KINDS[kind].severity
    stamp = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    header = f"<{priority}>1 {stamp} {host_name or '-'} dicomnode {os.getpid()} DICOM+RFC3881 - "
    body = header.encode("ascii", "replace") + _BOM + message
    return f"{len(body)} ".encode() + body


def connector(host: str, port: int, context: ssl.SSLContext | None) -> Callable[[], socket.socket]:
    """Return what opens a connection to a syslog server, with TLS when a context is given."""

    def connect() -> socket.socket:
        connection = socket.create_connection((host, port), _TIMEOUT_S)
        if context is None:
            return connection
        try:
            return context.wrap_socket(connection, server_hostname=host)
        except OSError:
            connection.close()
            raise

    return connect
