"""Counts of one process on their way into the ledger, and its signs of life.

What a process counted since the last `hand_in` is lost when it is killed: ten seconds at most.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress

from dicomnode.errors import RetryLater
from dicomnode.ledger.figures import SEPARATOR
from dicomnode.ledger.ledger import Ledger

# So many different labels of one process; what comes besides is counted as other.
_MOST_LABELS = 200
_OTHER = "other"


class Tally:
    """Counts events by name and label until they are handed in. Thread-safe.

    Parameters
    ----------
    side
        Name of the process.
    """

    def __init__(self, side: str, ledger: Ledger) -> None:
        self._side, self._ledger = side, ledger
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter({("starts", side): 1})
        self._labels: set[tuple[str, str]] = set()

    def refused(self, event: str, reason: str) -> None:
        """Count a caller or an instance that was turned away."""
        with self._lock:
            label = ("refusals", f"{event}{SEPARATOR}{reason}")
            if label not in self._labels and len(self._labels) >= _MOST_LABELS:
                label = ("refusals", f"{event}{SEPARATOR}{_OTHER}")
            self._labels.add(label)
            self._counts[label] += 1

    def lost_workers(self, count: int) -> None:
        """Count worker processes that died or were ended."""
        with self._lock:
            self._counts["lost_workers", ""] += count

    def hand_in(self, *, alive: bool) -> None:
        """Put into the ledger what was counted, with a sign of life; when it is away, the next time."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
        amounts = {key: float(count) for key, count in counts.items() if count}
        try:
            self._ledger.figures.add(amounts)
        except RetryLater:
            with self._lock:
                self._counts.update(counts)
            return
        if alive:
            with suppress(RetryLater):
                self._ledger.figures.put("alive", self._side, time.time())
