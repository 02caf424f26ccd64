"""Signals as events: SIGTERM and SIGINT end a process, SIGHUP has it read its configuration again."""

from __future__ import annotations

import signal
import threading
import time
from typing import Literal

Request = Literal["stop", "reload"]


class Signals:
    """Takes the signals of this process from the moment that it is made; of the main thread only."""

    def __init__(self) -> None:
        self._stop = self._reload = False
        self._wake = threading.Event()
        signal.signal(signal.SIGTERM, self._note_stop)
        signal.signal(signal.SIGINT, self._note_stop)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._note_reload)

    def wait(self, timeout_s: float) -> Request | None:
        """Wait for a request, for so long at most; a reload is handed out once, a stop every time."""
        end = time.monotonic() + timeout_s
        while not (self._stop or self._reload):
            remaining_s = end - time.monotonic()
            if remaining_s <= 0:
                return None
            self._wake.wait(remaining_s)
            self._wake.clear()
        if self._stop:
            return "stop"
        self._reload = False
        return "reload"

    def _note_stop(self, *_signal: object) -> None:
        self._stop = True
        self._wake.set()

    def _note_reload(self, *_signal: object) -> None:
        self._reload = True
        self._wake.set()
