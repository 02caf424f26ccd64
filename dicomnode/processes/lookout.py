"""`Lookout` collects the signs of life of what runs on a timer.

Whoever asks is told what has given none for too long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Lookout:
    """Watches over everything that was once expected. Thread-safe.

    Parameters
    ----------
    clock
        Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # Name -> how often it is to begin, how long it may be silent, when it last began or ended.
        self._expected: dict[str, tuple[float, float]] = {}
        self._seen_at: dict[str, float] = {}
        # Several runs of one name may be under way: one that hangs is not hidden by one that works.
        self._runs: dict[object, tuple[str, float]] = {}

    def expect(self, name: str, every_s: float, silent_s: float) -> None:
        """Expect something to begin every so often.

        A process is never to be silent for longer than `silent_s` beyond that.
        """
        with self._lock:
            self._expected[name], self._seen_at[name] = (every_s, silent_s), self._clock()

    @contextmanager
    def run(self, name: str) -> Iterator[Callable[[], None]]:
        """Give what a run calls as its sign of life; to begin and to end are signs, too."""
        token = object()

        def alive() -> None:
            with self._lock:
                self._seen_at[name] = self._clock()
                if token in self._runs:
                    self._runs[token] = (name, self._clock())

        with self._lock:
            self._runs[token] = (name, self._clock())
        try:
            alive()
            yield alive
        finally:
            alive()
            with self._lock:
                del self._runs[token]

    def overdue(self) -> dict[str, float]:
        """Return what is silent for too long, and for how many seconds.

        A run that hangs, or a name that no run begins for.
        """
        with self._lock:
            now, running = self._clock(), {name for name, _ in self._runs.values()}
            silent = {
                name: now - sign_at
                for name, sign_at in self._seen_at.items()
                if name not in running and now - sign_at > sum(self._expected[name])
            }
            for name, sign_at in self._runs.values():
                if now - sign_at > self._expected[name][1]:
                    silent[name] = max(now - sign_at, silent.get(name, 0.0))
            return silent
