"""What is acknowledged and not listed yet: a queue that says when to begin, and when to wait.

Rules for this file:
1. Entries leave in the order in which they came.
2. While images pour in, filing waits a little: it would take the processor from those who wait for an answer.
3. No acknowledgement runs far ahead of the ledger: the working side concludes from how long nothing was
   listed.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from itertools import islice

import structlog

from dicomnode.errors import NodeError, RetryLater
from dicomnode.spool.journal.segment import Acknowledged

log = structlog.get_logger()

_AT_ONCE = 64
# Filing begins when nothing has come for so long, or when the oldest has waited for so long: less long while
# they come so slowly that no whole batch waits.
_CALM_S = 0.02
_SOON_S = 0.15
_LATEST_S = 0.5
_LONGEST_LAG_S = 5.0
_PATIENCE_S = 20.0
_AGAIN_S = 0.5
_LOOK_S = 0.5


class Backlog:
    """The queue between those who acknowledge and the one who makes files. Thread-safe.

    Parameters
    ----------
    clock
        Seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._gate = threading.Condition()
        self._queue: deque[tuple[float, Acknowledged]] = deque()
        self._paths: Counter[str] = Counter()
        self._added = self._removed = self._hurried = 0
        self._newest_at = 0.0
        self._failure: NodeError | None = None
        self.unfiled_bytes = 0
        """Bytes of the datasets that are no files yet: the disk must have room for them."""
        self.is_stopping = False
        """Set when nothing more comes: what there is leaves at once."""

    def add(self, entry: Acknowledged) -> None:
        """Take an instance that is safe; it will be a file and listed soon."""
        with self._gate:
            self._newest_at = self._clock()
            self._queue.append((self._newest_at, entry))
            self._added += 1
            self._paths[entry.instance.path] += 1
            self.unfiled_bytes += entry.instance.size_bytes if entry.segment else 0
            if len(self._queue) == 1:
                self._gate.notify_all()

    def holds(self, path: str) -> bool:
        """Return whether the file of this path is still to be made or listed."""
        with self._gate:
            return self._paths[path] > 0

    def require_pace(self) -> None:
        """Return when the ledger is not far behind.

        Raises what keeps it from that: `RetryLater` (the ledger) or `OutOfResources` (the disk).
        """
        with self._gate:
            if self._failure is None and not self._lags():
                return
            self._gate.wait_for(lambda: self._failure is not None or not self._lags(), _PATIENCE_S)
            if self._failure is not None:
                raise type(self._failure)(str(self._failure))
            if self._lags():
                raise RetryLater("the ledger is too far behind what was acknowledged")

    def settle(self, timeout_s: float = _LONGEST_LAG_S) -> None:
        """Return when all that was added before this call is listed.

        `RetryLater` when that takes too long.
        """
        with self._gate:
            last = self._added
            self._hurried += 1
            self._gate.notify_all()
            try:
                if not self._gate.wait_for(lambda: self._removed >= last, timeout_s):
                    raise RetryLater("what was acknowledged is not listed yet")
            finally:
                self._hurried -= 1

    def stop(self) -> None:
        """Let what there is leave at once."""
        with self._gate:
            self.is_stopping = True
            self._gate.notify_all()

    def next_batch(self, *, is_idle: bool) -> list[Acknowledged]:
        """Wait until there is something to do, and return what is to be filed; it stays until `remove`.

        Nothing when it is time to look after the segments; with `is_idle` there is no such time.
        """
        with self._gate:
            if self._failure is not None:
                self._gate.wait_for(lambda: self.is_stopping, _AGAIN_S)
            elif not self._queue and not self.is_stopping:
                self._gate.wait(None if is_idle else _LOOK_S)
            while self._queue and not self.is_stopping and not self._hurried:
                longest_s = _SOON_S if len(self._queue) < _AT_ONCE else _LATEST_S
                due_at = min(self._newest_at + _CALM_S, self._queue[0][0] + longest_s)
                if (remaining_s := due_at - self._clock()) <= 0:
                    break
                self._gate.wait(remaining_s)
            return [entry for _, entry in islice(self._queue, _AT_ONCE)]

    def remove(self, count: int) -> None:
        """Take the oldest entries out: they are listed, or can never be."""
        with self._gate:
            for _ in range(count):
                _, entry = self._queue.popleft()
                self._paths[entry.instance.path] -= 1
                if not self._paths[entry.instance.path]:
                    del self._paths[entry.instance.path]
                self.unfiled_bytes -= entry.instance.size_bytes if entry.segment else 0
            self._removed += count
            self._failure = None
            self._gate.notify_all()

    def note_failure(self, failure: NodeError | None) -> None:
        """Note why entries cannot leave now, or that they can."""
        with self._gate:
            if failure is None and self._failure is None:
                return
            if failure is not None and self._failure is None:
                log.warning("journal_not_filed", waiting=len(self._queue), reason=str(failure))
            self._failure = failure
            self._gate.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes, and nothing there is can leave or is left."""
        with self._gate:
            return self.is_stopping and (self._failure is not None or not self._queue)

    @property
    def is_empty(self) -> bool:
        """Whether all that was acknowledged is listed."""
        with self._gate:
            return not self._queue

    def _lags(self) -> bool:
        return bool(self._queue) and self._clock() - self._queue[0][0] > _LONGEST_LAG_S
