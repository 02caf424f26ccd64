"""The timers of an association, by a clock that nobody sets; those of pynetdicom go by the time of day."""

from __future__ import annotations

import time
from typing import Any

from pynetdicom.timer import Timer


class SteadyTimer(Timer):
    """ARTIM and idle timer (PS3.8 9.1.5).

    A clock that is set forward ends no association, one that is set back keeps none.
    """

    @property
    def remaining(self) -> float:
        """Seconds until it expires; 1 when it never does."""
        if self.timeout is None:
            return 1
        if self._start_time is None:
            return self.timeout
        end = time.monotonic() if self._end_time is None else self._end_time
        return self.timeout - (end - self._start_time)

    def start(self) -> None:
        """Begin anew."""
        self._start_time, self._end_time = time.monotonic(), None

    def stop(self) -> None:
        """Stop."""
        self._end_time = time.monotonic()


def make_steady(provider: Any) -> None:
    """Have an association's provider use such timers; one that runs begins anew."""
    # pynetdicom names the class in its constructors and gives no other way to choose it.
    for timer in (provider._idle_timer, provider.artim_timer):  # noqa: SLF001
        runs = timer._start_time is not None and timer._end_time is None  # noqa: SLF001
        timer.__class__ = SteadyTimer
        if runs:
            timer.start()
        else:
            timer._start_time = timer._end_time = None  # noqa: SLF001
