"""What one peer, and all of them together, may take of the node.

Memory for what is being received, and associations.

Rules for this file:
1. A limit is looked at before the thing is taken, so that memory never grows first.
2. It knows numbers and hosts, no sockets.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from dicomnode.settings.config import NetworkSettings

_MIB = 2**20


class ReceiveMemory:
    """How much memory what is being received may take, before and after an association.

    Thread-safe; one per listener.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        self._accounts: list[MemoryAccount] = []
        self._lock = threading.Lock()
        self.resize(settings)

    def resize(self, settings: NetworkSettings) -> None:
        """Take other limits from now on; what is held is not taken away."""
        self.largest_bytes = settings.maximum_instance_mb * _MIB
        self._all_bytes = settings.receive_memory_mb * _MIB

    def account(self) -> MemoryAccount:
        """Return the account of a new connection; it counts until it is closed."""
        account = MemoryAccount(self)
        with self._lock:
            self._accounts.append(account)
        return account

    @property
    def held_bytes(self) -> int:
        """What is held by connections that are open."""
        with self._lock:
            return self._held()

    def take(self, account: MemoryAccount, message_bytes: int, more_bytes: int) -> bool:
        """Take `more_bytes` for a message that has `message_bytes` already.

        False, and nothing is taken, when that is too much.
        """
        with self._lock:
            if message_bytes + more_bytes > self.largest_bytes or self._held() + more_bytes > self._all_bytes:
                return False
            account.taken_bytes += more_bytes
            return True

    def close(self, account: MemoryAccount) -> None:
        """Count an account no longer."""
        with self._lock:
            if account in self._accounts:
                self._accounts.remove(account)

    def _held(self) -> int:
        return sum(account.taken_bytes for account in self._accounts)


class MemoryAccount:
    """What one connection has taken for what it is sending."""

    def __init__(self, memory: ReceiveMemory) -> None:
        self._memory = memory
        self.taken_bytes = 0

    def allow(self, held_bytes: int, more_bytes: int) -> bool:
        """Take more for the message that has `held_bytes` already.

        When that is too much, everything of it is given back.
        """
        if self._memory.take(self, held_bytes, more_bytes):
            return True
        self.settle()
        return False

    def charge(self, more_bytes: int) -> None:
        """Take a few bytes that are bounded elsewhere: a request, or a command set in pieces."""
        self.taken_bytes += more_bytes

    def settle(self) -> None:
        """Give everything back: the message is answered, or dropped."""
        self.taken_bytes = 0

    def close(self) -> None:
        """Give everything back for good: the connection is gone."""
        self.settle()
        self._memory.close(self)


class Places:
    """The associations that are served, in all and of each peer, from the moment that one is let in.

    Thread-safe; one per listener.

    Looking and taking are one step: a hundred requests at once do not all find the same free place.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        self._taken: list[tuple[str, str, Callable[[], bool]]] = []
        self._lock = threading.Lock()
        self.resize(settings)

    def resize(self, settings: NetworkSettings) -> None:
        """Take other limits from now on; who has a place keeps it."""
        self._in_all, self._per_peer = settings.maximum_associations, settings.maximum_associations_per_peer

    def shortage(self, calling_ae: str, host: str) -> str:
        """Return why a peer's association finds no place: a sentence that names the setting.

        Empty when there is one.
        """
        with self._lock:
            self._taken = [holder for holder in self._taken if holder[2]()]
            if sum(holder[:2] == (calling_ae, host) for holder in self._taken) >= self._per_peer:
                return (
                    f"{calling_ae!r} from {host} has as many associations as "
                    "network.maximum_associations_per_peer allows"
                )
            if len(self._taken) >= self._in_all:
                return "as many associations are served as network.maximum_associations allows"
            return ""

    def take(self, calling_ae: str, host: str, is_open: Callable[[], bool]) -> None:
        """Take a place until `is_open` says no."""
        with self._lock:
            self._taken.append((calling_ae, host, is_open))
