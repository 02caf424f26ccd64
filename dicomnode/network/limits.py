"""What one peer, and all of them together, may take of the node: memory for datasets, connections, associations.

Rules for this file:
1. A limit is looked at before the thing is taken, so that memory never grows first.
2. It knows numbers and hosts, no sockets.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dicomnode.settings.config import NetworkSettings

_MIB = 2**20


class ReceiveMemory:
    """How much memory datasets under way may take. Thread-safe; one per listener."""

    def __init__(self, settings: NetworkSettings) -> None:
        self.largest_bytes = settings.maximum_instance_mb * _MIB
        self._all_bytes = settings.receive_memory_mb * _MIB
        self._accounts: list[MemoryAccount] = []
        self._lock = threading.Lock()

    def account(self, is_open: Callable[[], bool], drop: Callable[[], None]) -> MemoryAccount:
        """Return the account of a new association; `drop` frees what it holds once it is not open any more."""
        account = MemoryAccount(self, is_open, drop)
        with self._lock:
            self._sweep()
            self._accounts.append(account)
        return account

    @property
    def held_bytes(self) -> int:
        """What is held by associations that are open."""
        with self._lock:
            self._sweep()
            return sum(account.taken_bytes for account in self._accounts)

    def take(self, account: MemoryAccount, dataset_bytes: int, more_bytes: int) -> bool:
        """Take `more_bytes` for a dataset that has `dataset_bytes` already; False, and nothing is taken, when that is too much."""
        with self._lock:
            if dataset_bytes + more_bytes > self.largest_bytes:
                return False
            if self._held() + more_bytes > self._all_bytes:
                # An association that broke off in the middle of a dataset tells nobody.
                self._sweep()
                if self._held() + more_bytes > self._all_bytes:
                    return False
            account.taken_bytes += more_bytes
            return True

    def _held(self) -> int:
        return sum(account.taken_bytes for account in self._accounts)

    def _sweep(self) -> None:
        for account in [one for one in self._accounts if not one.is_open()]:
            account.drop()
            self._accounts.remove(account)


class MemoryAccount:
    """What one association has taken for the dataset that it is sending."""

    def __init__(self, memory: ReceiveMemory, is_open: Callable[[], bool], drop: Callable[[], None]) -> None:
        self._memory = memory
        self.is_open, self.drop = is_open, drop
        self.taken_bytes = 0

    def allow(self, held_bytes: int, more_bytes: int) -> bool:
        """Take more for the dataset that has `held_bytes` already; when that is too much, everything of it is given back."""
        if self._memory.take(self, held_bytes, more_bytes):
            return True
        self.settle()
        return False

    def settle(self) -> None:
        """Give everything back: the dataset is stored, or dropped."""
        self.taken_bytes = 0


class PeerShares:
    """Counts the associations of each peer from the moment that one is let in. Thread-safe; one per listener.

    Looking and taking are one step: a hundred requests at once do not all find the same free place.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        self._each = settings.maximum_associations_per_peer
        self._taken: list[tuple[str, str, Callable[[], bool]]] = []
        self._lock = threading.Lock()

    def take(self, calling_ae: str, host: str, is_open: Callable[[], bool]) -> bool:
        """Take a place for a peer's association until `is_open` says no; False, and none is taken, when it has all of its places."""
        with self._lock:
            self._taken = [one for one in self._taken if one[2]()]
            if sum(one[:2] == (calling_ae, host) for one in self._taken) >= self._each:
                return False
            self._taken.append((calling_ae, host, is_open))
            return True


class Doorkeeper:
    """Counts connections that are not associations yet, per host and in all. Thread-safe; one per listener.

    Whoever opens connections and says nothing fills his own share only.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        self._per_host = settings.maximum_associations
        self._in_all = 4 * settings.maximum_associations
        self._waiting: Counter[str] = Counter()
        self._lock = threading.Lock()

    def lets_in(self, host: str, undecided: Counter[str]) -> bool:
        """Return whether one more connection may wait; `undecided` counts, per host, those that are being negotiated already."""
        with self._lock:
            here = self._waiting[host] + undecided[host]
            return here < self._per_host and self._waiting.total() + undecided.total() < self._in_all

    @contextmanager
    def waiting(self, host: str) -> Iterator[None]:
        """Count a connection while it is made into an association."""
        with self._lock:
            self._waiting[host] += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting[host] -= 1
                if not self._waiting[host]:
                    del self._waiting[host]
