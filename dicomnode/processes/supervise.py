"""A child process that is started again when it dies or hangs; `dicomnode serve` has one for each side of the node."""

from __future__ import annotations

import os
import socket
import subprocess
import time

# What lived so long did start.
_STEADY_S = 60.0
# The sides feed the watchdog every 10 s. As long as systemd's WatchdogSec in systemd/.
SILENT_S = 60.0
# Who looked away himself (the machine slept) cannot say that the other was silent.
_LOOKED_AWAY_S = 5.0


class Side:
    """One supervised child process; restarts wait 1, 2, 4 ... 30 seconds while it keeps dying.

    The child speaks to it as it would to systemd (sd_notify), through a socket that lies in no folder: a full or read-only disk is
    no silence.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._signs = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # The kernel gives it an abstract address (unix(7), autobind).
        self._signs.bind("")
        self._signs.setblocking(False)
        self._heard_at: float | None = None
        self._looked_at = time.monotonic()
        self._deaths = 0
        self._was_steady = False
        self._start_at: float | None = None
        self._started_at = time.monotonic()
        self.process = self._start()

    def restart_if_dead(self, now: float) -> bool:
        """Start the process again when it has died and its wait is over."""
        if self.process.poll() is None:
            return False
        if self._start_at is None:
            steady = now - self._started_at > _STEADY_S
            self._was_steady = self._was_steady or steady
            self._deaths = 1 if steady else self._deaths + 1
            self._start_at = now + min(30.0, 2.0 ** (self._deaths - 1))
        if now < self._start_at:
            return False
        self._start_at, self._started_at = None, now
        self.process = self._start()
        return True

    def kill_if_silent(self, now: float) -> bool:
        """Kill the process when it was ready and has given no sign of life since; everything in the node is safe to be killed in.

        What is still starting is left alone: a large spool takes its time.
        """
        looked_away = now - self._looked_at > _LOOKED_AWAY_S
        self._looked_at = now
        if self._hear() or (looked_away and self._heard_at is not None):
            self._heard_at = now
        if self._heard_at is None or now - self._heard_at <= SILENT_S or self.process.poll() is not None:
            return False
        self._heard_at = None
        self.process.kill()
        return True

    def never_started(self, exit_code: int) -> bool:
        """Return whether the process said by `exit_code` that it cannot start, and never did: a wrong set-up, which somebody must mend.

        One that ran before is started again: what it needs (a Dask scheduler, a database server) will come back, and the other
        side must not stop for it.
        """
        return self.process.poll() == exit_code and not self._was_steady

    def wait(self, timeout_s: float) -> None:
        """Wait for the end after a terminate; kill what does not end."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._signs.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._hear()
        self._heard_at = None
        # Only the supervisor speaks to systemd: a child's READY=1 would be taken for ours.
        address = "@" + self._signs.getsockname()[1:].decode("ascii")
        return subprocess.Popen(self._command, env={**os.environ, "NOTIFY_SOCKET": address})

    def _hear(self) -> bool:
        """Take what the child has said; return whether it said anything."""
        heard = False
        while True:
            try:
                self._signs.recv(4096)
            except BlockingIOError:
                return heard
            heard = True
