"""Sessions and what protects them: tokens, their ends, form tokens, the brake on log-in.

Rules for this file:
1. A session's token is known to its browser alone: here lies its hash.
2. A log-in makes a new token, whatever the browser brought along (session fixation).
3. Everything is bounded: a flood of log-ins or sessions takes no memory and little time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from dicomnode.web.users import UserRole

_MOST_SESSIONS = 1000
_MOST_COUNTERS = 10_000


@dataclass(frozen=True)
class Session:
    """Who is logged in; times are seconds since the epoch."""

    user_name: str
    role: UserRole
    started_at: float
    last_used_at: float


class Sessions:
    """The sessions of this process. Thread-safe."""

    def __init__(self, idle_s: float, longest_s: float) -> None:
        self._idle_s, self._longest_s = idle_s, longest_s
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._form_key = secrets.token_bytes(32)

    def start(self, user_name: str, role: UserRole, now: float) -> str:
        """Begin a session and return its token."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._sessions) >= _MOST_SESSIONS:
                self._sessions.popitem(last=False)
            self._sessions[_hash(token)] = Session(user_name, role, now, now)
        return token

    def use(self, token: str, now: float, *, by_hand: bool = True) -> Session | None:
        """Return the session of a token; None when it ended or never was.

        What a page does by itself (`by_hand` is False) does not keep it alive.
        """
        key = _hash(token)
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                return None
            idle, age = now - session.last_used_at, now - session.started_at
            if idle > self._idle_s or age > self._longest_s or age < -self._idle_s:
                del self._sessions[key]
                return None
            if by_hand:
                self._sessions[key] = replace(session, last_used_at=now)
                self._sessions.move_to_end(key)
            return session

    def end(self, token: str) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_hash(token), None)

    def form_token(self, browser_token: str) -> str:
        """Return what a form of this browser must carry; nobody else can make it."""
        return hmac.new(self._form_key, browser_token.encode(), hashlib.sha256).hexdigest()

    def is_own_form(self, browser_token: str, form_token: str) -> bool:
        """Return whether a form was made for this browser by this process."""
        return bool(browser_token) and hmac.compare_digest(
            self.form_token(browser_token).encode(), form_token.encode("utf-8", "replace")
        )


class LoginBrake:
    """Counts failed log-ins and says how long the next one has to wait. Thread-safe.

    Within five minutes five failures of one name from one address, twenty of one address, or fifty of one
    name are the limit: a stranger who guesses does not lock out a colleague at another desk at once.
    """

    window_s = 300.0
    limits: Mapping[str, int] = MappingProxyType({"both": 5, "address": 20, "name": 50})

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: OrderedDict[tuple[str, str], list[float]] = OrderedDict()
        # One hash at a time: a flood of log-ins must not take every core.
        self.one_at_a_time = threading.BoundedSemaphore(1)

    def wait_s(self, name: str, address: str, now: float) -> float:
        """Return how long the next try of this name from this address has to wait; 0 when not at all."""
        with self._lock:
            return max(self._wait_s(key, now) for key in _counters(name, address))

    def note_failure(self, name: str, address: str, now: float) -> None:
        """Count a failure."""
        with self._lock:
            for key in _counters(name, address):
                self._failures[key] = [*self._recent(key, now), now][-self.limits[key[0]] :]
                self._failures.move_to_end(key)
            while len(self._failures) > _MOST_COUNTERS:
                self._failures.popitem(last=False)

    def note_success(self, name: str, address: str) -> None:
        """Forget the failures of a name from an address."""
        with self._lock:
            self._failures.pop(_counters(name, address)[0], None)

    def _recent(self, key: tuple[str, str], now: float) -> list[float]:
        return [at for at in self._failures.get(key, ()) if 0 <= now - at < self.window_s]

    def _wait_s(self, key: tuple[str, str], now: float) -> float:
        times, limit = self._recent(key, now), self.limits[key[0]]
        return 0.0 if len(times) < limit else times[-limit] + self.window_s - now


def _counters(name: str, address: str) -> tuple[tuple[str, str], ...]:
    return ("both", f"{name}@{address}"), ("address", address), ("name", name)


def new_browser_token() -> str:
    """Return the token of a browser that nobody is logged in with yet."""
    return secrets.token_urlsafe(32)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
