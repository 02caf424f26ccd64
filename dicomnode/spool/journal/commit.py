"""Group commit: one sync serves all who wrote before it began.

Rules for this file:
1. Who waits is let go only by a sync that began after its own write had returned.
2. A sync that failed is never tried again: the kernel has dropped what it could not write, and the next one
   would say that all is well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from dicomnode.errors import OutOfResources


class _Waiter:
    """A thread that has written and waits: to be let go, or to sync for all who wait with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.leads = False
        self.failure: OSError | None = None

    def wait(self) -> None:
        """Sleep until `wake`; called once."""
        self._lock.acquire()

    def wake(self) -> None:
        self._lock.release()


class GroupCommit:
    """Waits, in the name of each thread that has written, for a sync that covers what it wrote.

    A thread that comes while a sync runs waits for the next one, which the first of those who wait then does
    for all of them. Each is woken once.

    Parameters
    ----------
    sync
        Brings what was written so far to the disk; `OSError` when it cannot.
    """

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._gate = threading.Lock()
        self._is_syncing = False
        # Who has written since the sync that runs has begun.
        self._waiting: list[_Waiter] = []
        self._failure: OSError | None = None

    def __call__(self) -> None:
        """Return when what the caller has written before this call is on the disk.

        Raises
        ------
        OutOfResources
            The sync failed, now or before. The same is raised to everybody whom it would have served.
        """
        with self._gate:
            if self._failure is not None:
                raise _refusal(self._failure)
            waiter = _Waiter()
            self._waiting.append(waiter)
            waiter.leads, self._is_syncing = not self._is_syncing, True
        if not waiter.leads:
            waiter.wait()
        if waiter.leads:
            self._lead(waiter)
        if waiter.failure is not None:
            raise _refusal(waiter.failure)

    def _lead(self, leader: _Waiter) -> None:
        """Sync for all who wait at this moment, let them go, and have the first of the others lead."""
        with self._gate:
            group, self._waiting = self._waiting, []
        failure: OSError | None = OSError("the sync was broken off")
        try:
            self._sync()
            failure = None
        except OSError as problem:
            failure = problem
        finally:
            with self._gate:
                if failure is not None:
                    # Nobody syncs any more: who came meanwhile is refused, too.
                    self._failure = failure
                    group, self._waiting = group + self._waiting, []
                next_leader = self._waiting[0] if self._waiting else None
                self._is_syncing = next_leader is not None
            for waiter in group:
                waiter.failure = failure
                if waiter is not leader:
                    waiter.wake()
            if next_leader is not None:
                next_leader.leads = True
                next_leader.wake()


def _refusal(failure: OSError) -> OutOfResources:
    return OutOfResources(f"the journal cannot be written: {failure.strerror or failure}")
