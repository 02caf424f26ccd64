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


class GroupCommit:
    """Waits, in the name of each thread that has written, for a sync that covers what it wrote.

    Parameters
    ----------
    sync
        Brings what was written so far to the disk; `OSError` when it cannot.
    """

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._gate = threading.Condition()
        self._written = self._synced = 0
        self._is_syncing = False
        self._failure: OSError | None = None

    def __call__(self) -> None:
        """Return when what the caller has written before this call is on the disk.

        Raises
        ------
        OutOfResources
            The sync failed, now or before. The same is raised to everybody whom it would have served.
        """
        with self._gate:
            self._written += 1
            ticket = self._written
            while self._is_syncing and self._synced < ticket:
                self._gate.wait()
            if self._synced >= ticket:
                return
            if self._failure is not None:
                raise _refusal(self._failure)
            # Nobody syncs: this thread does it for all who have written until now.
            self._is_syncing, covered = True, self._written
        failure: OSError | None = OSError("the sync was broken off")
        try:
            self._sync()
            failure = None
        except OSError as problem:
            failure = problem
        finally:
            with self._gate:
                self._is_syncing, self._failure = False, failure
                if failure is None:
                    self._synced = covered
                self._gate.notify_all()
        if failure is not None:
            raise _refusal(failure)


def _refusal(failure: OSError) -> OutOfResources:
    return OutOfResources(f"the journal cannot be written: {failure.strerror or failure}")
