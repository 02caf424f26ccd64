"""A child process that is started again when it dies; `dicomnode serve` has one for each side of the node."""

from __future__ import annotations

import os
import subprocess
import time

# What lived so long did start.
_STEADY_S = 60.0


class Side:
    """One supervised child process; restarts wait 1, 2, 4 ... 30 seconds while it keeps dying."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._deaths = 0
        self._was_steady = False
        self._start_at: float | None = None
        self._started_at = time.monotonic()
        self.process = _start(command)

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
        self.process = _start(self._command)
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


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    # Only the supervisor speaks to systemd: a child's READY=1 would be taken for ours.
    return subprocess.Popen(command, env={**os.environ, "NOTIFY_SOCKET": ""})
