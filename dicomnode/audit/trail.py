"""`AuditTrail`: an append-only file of JSON lines, and, where one is named, a syslog server.

Rules for this file:
1. Auditing never stops what it is about: a line that cannot be written is logged, and the work goes on.
2. The file is opened for each line, so that it may be renamed at any time (logrotate), and by several
   processes at once.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from dicomnode.audit.events import AuditEvent, Source, to_json, to_xml
from dicomnode.audit.syslog import SyslogSender

log = structlog.get_logger()

FILE = "audit.jsonl"
# Events of one kind from one peer within this time are counted, not written: a flood must not fill the disk.
_QUIET_S = 60.0
_COUNTED = ("association-refused", "handshake-failed", "connections-cut", "hung-up", "user-login-failed")
_REMEMBERED_PEERS = 1000


class AuditTrail:
    """Writes audit events. Thread-safe.

    Parameters
    ----------
    folder
        Where the file lies; made when it is missing, private to the user.
    source
        Who audits.
    syslog
        Where events go besides; None: nowhere.
    clock
        Seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        syslog: SyslogSender | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = folder / FILE
        self._source, self._syslog, self._clock = source, syslog, clock
        self._lock = threading.Lock()
        # (kind, host) -> when it was written last, and how many were left out since.
        self._counted: dict[tuple[str, str], tuple[float, int]] = {}

    def __call__(self, event: AuditEvent) -> None:
        """Write an event."""
        now = self._clock()
        with self._lock:
            repeated = self._repeated(event, now)
        if repeated is None:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600
            )
            try:
                # One call: lines of two processes do not mix.
                os.write(handle, to_json(event, self._source, now, repeated).encode("ascii") + b"\n")
            finally:
                os.close(handle)
        except OSError as problem:
            # A traceback says no more.
            log.error("audit_not_written", kind=event.kind, reason=problem.strerror)  # noqa: TRY400
        if self._syslog is not None:
            self._syslog.put(event.kind, to_xml(event, self._source, now, repeated), now)

    def note_configuration(self, text: str) -> None:
        """Audit that the configuration is another one than at the last start; `text` is hashed, not kept."""
        digests = self.remember_configuration(text)
        if digests is not None and digests[0] != digests[1]:
            before, digest = digests
            words = f"sha256 {digest}" + (f", before {before}" if before else ", first start")
            self(AuditEvent("configuration-changed", detail=words))

    def remember_configuration(self, text: str) -> tuple[str, str] | None:
        """Write down the hash of the configuration that holds now; return the one before and this one.

        None where it could not be written, which is logged.
        """
        digest = hashlib.sha256(text.encode()).hexdigest()
        digest_file = self._path.with_name("configuration.sha256")
        try:
            before = digest_file.read_text(encoding="ascii").strip() if digest_file.exists() else ""
            if before != digest:
                digest_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                digest_file.write_text(f"{digest}\n", encoding="ascii")
        except OSError as problem:
            log.error(  # noqa: TRY400
                "audit_not_written", kind="configuration-changed", reason=problem.strerror
            )
            return None
        return before, digest

    def close(self) -> None:
        """Give the syslog server a moment for what is on its way."""
        if self._syslog is not None:
            self._syslog.close()

    def _repeated(self, event: AuditEvent, now: float) -> int | None:
        """Return how many events like it were left out, or None when this one is left out too."""
        if event.kind not in _COUNTED:
            return 0
        key = (event.kind, event.peer_host)
        last, left_out = self._counted.get(key, (float("-inf"), 0))
        if 0 <= now - last < _QUIET_S:
            self._counted[key] = (last, left_out + 1)
            return None
        if len(self._counted) >= _REMEMBERED_PEERS:
            self._counted.clear()
        self._counted[key] = (now, 0)
        return left_out
