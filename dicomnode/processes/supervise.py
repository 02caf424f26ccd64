"""A child process that is started again when it dies or hangs.

`dicomnode serve` has one for each side of the node.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import time

# What lived so long did start.
_STEADY_S = 60.0
# The sides feed the watchdog every 10 s. As long as systemd's WatchdogSec in systemd/.
SILENT_S = 60.0
# As many times in a row a process may end soon after its start; the waits between add up to four minutes.
MOST_DEATHS = 12
# struct ucred of unix(7): pid, uid, gid.
_CREDENTIALS = struct.Struct("3i")
# Who looked away himself (the machine slept) cannot say that the other was silent.
_LOOKED_AWAY_S = 5.0


class Side:
    """One supervised child process; restarts wait 1, 2, 4 ... 30 seconds while it keeps dying.

    The child speaks to it as it would to systemd (sd_notify), through a socket that lies in no folder: a full
    or read-only disk is no silence. Whoever else sends there, another user or a child of the child, is not
    listened to.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._signs = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # The kernel gives it an abstract address (unix(7), autobind).
        self._signs.bind("")
        self._signs.setblocking(False)
        # The kernel then says who sent a message (unix(7), SCM_CREDENTIALS).
        self._signs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.is_ready = False
        """Whether the process that runs now said READY=1."""
        self._heard_at: float | None = None
        self._looked_at = time.monotonic()
        self._wants_reload = False
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
        """Kill the process when it was ready and has given no sign of life since.

        Everything in the node is safe to be killed in.

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

    def ask_to_reload(self) -> None:
        """Have the process read its configuration again, as soon as it is ready."""
        self._wants_reload = True

    def reload_if_asked(self) -> None:
        """Send SIGHUP to a process that is to reload and says that it is ready.

        Before it is ready, it would die of the signal.
        """
        if self._wants_reload and self.is_ready and self.process.poll() is None:
            self._wants_reload = False
            self.process.send_signal(signal.SIGHUP)

    def start_failure(self, exit_codes: tuple[int, ...]) -> int | None:
        """Return the exit code by which the process said that it cannot start, and never did.

        A wrong set-up, which somebody must change.

        One that ran before is started again: what it needs (a Dask scheduler, a database server) will come
        back, and the other side must not stop for it.
        """
        code = self.process.poll()
        return code if code in exit_codes and not self._was_steady else None

    def lost_code(self, waiting_code: int) -> int | None:
        """Return the exit code (128 and the number of a signal) of a process that ended too often in a row.

        The result is None when no process did.

        `waiting_code` is what it ends with while something that it needs is away: as long as that takes, it
        is started again.
        """
        code = self.process.poll()
        if code is None or self._deaths < MOST_DEATHS or (code == waiting_code and self._was_steady):
            return None
        return 128 - code if code < 0 else code or 1

    def wait(self, timeout_s: float) -> None:
        """Wait for the end after a terminate; kill what does not end."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._signs.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._drain()
        self._heard_at, self.is_ready = None, False
        # Only the supervisor speaks to systemd: a child's READY=1 would be taken for ours.
        address = "@" + self._signs.getsockname()[1:].decode("ascii")
        return subprocess.Popen(self._command, env={**os.environ, "NOTIFY_SOCKET": address})

    def _hear(self) -> bool:
        """Take what the child has said; return whether it said anything."""
        messages_of_child = [text for sender, text in self._drain() if sender == self.process.pid]
        self.is_ready = self.is_ready or any("READY=1" in text.splitlines() for text in messages_of_child)
        return bool(messages_of_child)

    def _drain(self) -> list[tuple[int, str]]:
        """Take every message that waits, each with the process that sent it."""
        messages: list[tuple[int, str]] = []
        while True:
            try:
                data, ancillary, _flags, _address = self._signs.recvmsg(
                    4096, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
            except BlockingIOError:
                return messages
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    messages.append((_CREDENTIALS.unpack(content)[0], data.decode("utf-8", "replace")))
