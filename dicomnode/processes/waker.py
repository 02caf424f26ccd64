"""`Waker`: triggers timers at once when something came or was done, instead of at their next turn."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

Trigger = Callable[[str, float | None], None]
"""Has the timer of a name run now, or at a time (seconds since the epoch) if it would not run before."""


class Waker:
    """Wakes timers by name. Thread-safe.

    One that is running as often as it may runs once more when it ends. A wake that is lost all the same costs
    no more than the timer's own interval.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_once: Mapping[str, int] = {}
        self._running: Counter[str] = Counter()
        self._again: set[str] = set()
        self._trigger: Trigger | None = None

    def attach(self, trigger: Trigger, at_once: Mapping[str, int]) -> None:
        """Wake by `trigger` from now on; `at_once` says how many runs of each timer may be under way."""
        with self._lock:
            self._trigger, self._at_once = trigger, dict(at_once)

    def wake(self, *names: str) -> None:
        """Have timers run now."""
        for name in names:
            with self._lock:
                trigger, is_busy = self._trigger, self._running[name] >= self._at_once.get(name, 1)
                if is_busy:
                    self._again.add(name)
            if trigger is not None and not is_busy:
                trigger(name, None)

    def wake_at(self, name: str, time: float) -> None:
        """Have a timer run at a time, if it would not run before."""
        with self._lock:
            trigger = self._trigger
        if trigger is not None:
            trigger(name, time)

    @contextmanager
    def run(self, name: str) -> Iterator[None]:
        """Count a run."""
        with self._lock:
            self._running[name] += 1
            self._again.discard(name)
        try:
            yield
        finally:
            with self._lock:
                self._running[name] -= 1

    def is_wanted_again(self, name: str) -> bool:
        """Return whether a timer was woken while it ran."""
        with self._lock:
            return name in self._again
