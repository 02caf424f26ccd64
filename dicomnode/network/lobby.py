"""Connections that are no association yet.

One thread reads all of them, each for so long and so much and no more.

Rules for this file:
1. Nothing here waits: who is silent, drips or sends half of something costs a socket and at most 64 KiB,
   until the ARTIM time is over (PS3.8 9.1.5, counted from the opening of the connection).
2. Nobody here holds a place of an association, and no crowd of strangers keeps the address of a peer out.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import struct
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from dicomnode.network.limits import MemoryAccount, ReceiveMemory
from dicomnode.network.refusals import Refusal, RefusalEvent, Refusals
from dicomnode.network.request import (
    A_ASSOCIATE_RQ,
    HEADER_BYTES,
    INVALID_PARAMETER,
    LARGEST_REQUEST_BYTES,
    UNEXPECTED_PDU,
    AssociationRequest,
    BrokenRequest,
    encode_abort,
    parse_request,
)
from dicomnode.network.tls import TLS_HANDSHAKE, HandshakeProblem, explain

PER_HOST = 64
"""Connections of one host that are no association; one more closes the oldest of them."""
IN_ALL = 256
"""Connections of all hosts that are no association; one more closes the oldest of the stranger who has most.
"""
# A rejection waits so long: a requestor that uses pynetdicom takes one that comes at once for a failed
# connection, and calls again.
_HESITATION_S = 0.05
# For so long a caller who was refused may still talk, so that the refusal is not lost in a reset.
_FAREWELL_S = 2.0
_WANTED = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)
_TOO_MANY = "more connections at once that are no association than one host, or all, may have"
_SILENT = "no complete request for an association within network.acse_timeout_s"
_SEE_PEER = "see what this host runs: a port scanner or a monitoring check does so"


@dataclass(eq=False)
class HalfOpen:
    """A connection that is no association yet."""

    connection: socket.socket
    address: tuple[Any, ...]
    is_peer: bool
    account: MemoryAccount
    deadline: float
    phase: Literal["greeting", "handshake", "request", "leaving"]
    received: bytearray = field(default_factory=bytearray)
    expected_bytes: int = HEADER_BYTES
    discarded_bytes: int = 0
    answer: bytes = b""
    answer_at: float = 0.0

    @property
    def host(self) -> str:
        """The address of the other end."""
        return str(self.address[0])


Welcome = Callable[[HalfOpen, AssociationRequest], tuple[Refusal, bytes] | None]
"""Opens an association for a request, or returns why not, and the PDU that says so."""


class Lobby:
    """Reads requests for associations. Not thread-safe: it is the listener's thread's.

    Parameters
    ----------
    selector
        Where connections are registered; their key's data is the `HalfOpen`.
    tls
        The context of the listener; None: plain.
    artim_s
        Longest life of a connection that is no association.
    memory
        Counts what is being received.
    refusals
        Told of everybody who is cut off.
    is_peer
        Whether an address belongs to a configured peer.
    welcome
        Decides on a complete request.
    clock
        Seconds on a clock that nobody sets.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        tls: ssl.SSLContext | None,
        artim_s: float,
        memory: ReceiveMemory,
        refusals: Refusals,
        is_peer: Callable[[str], bool],
        welcome: Welcome,
        clock: Callable[[], float],
    ) -> None:
        self._selector, self._tls, self._artim_s = selector, tls, artim_s
        self._memory, self._refusals = memory, refusals
        self._is_peer, self._welcome, self._clock = is_peer, welcome, clock
        # In the order of their opening.
        self._callers: dict[HalfOpen, None] = {}
        self._unanswered: deque[HalfOpen] = deque()

    def __len__(self) -> int:
        return len(self._callers)

    def reconfigure(self, tls: ssl.SSLContext | None, artim_s: float) -> None:
        """Take another TLS context and another time for connections that come from now on."""
        self._tls, self._artim_s = tls, artim_s

    def admit(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        """Take a new connection, and read what is there of it."""
        caller = HalfOpen(
            connection=connection,
            address=address,
            is_peer=self._is_peer(str(address[0])),
            account=self._memory.account(),
            deadline=self._clock() + self._artim_s,
            phase="request" if self._tls is None else "greeting",
        )
        connection.setblocking(False)
        self._make_room(caller)
        self._callers[caller] = None
        self._selector.register(connection, selectors.EVENT_READ, caller)
        self.advance(caller)

    def advance(self, caller: HalfOpen) -> None:
        """Go on with a connection on which something came; whatever fails ends this one only."""
        if caller not in self._callers:
            return
        try:
            if caller.phase == "greeting":
                self._greet(caller)
            if caller.phase == "handshake":
                self._shake_hands(caller)
            if caller.phase == "request":
                self._read(caller)
            elif caller.phase == "leaving":
                self._discard(caller)
        except _WANTED as wanted:
            writes = isinstance(wanted, ssl.SSLWantWriteError)
            if caller in self._callers:
                self._selector.modify(
                    caller.connection, selectors.EVENT_WRITE if writes else selectors.EVENT_READ, caller
                )
        except OSError:
            self._hung_up(caller)
        except Exception as problem:  # noqa: BLE001  one caller must not end the listener
            self._note(
                caller,
                "connection_cut",
                f"a fault of ours: {type(problem).__name__}",
                "report it",
                "connections-cut",
            )
            self._leave(caller)

    def expire(self) -> None:
        """Close whose time is over."""
        now = self._clock()
        for caller in [caller for caller in self._callers if caller.deadline <= now]:
            if caller.phase == "handshake":
                self._handshake_failed(caller, explain(TimeoutError()))
            else:
                if caller.phase != "leaving":
                    self._note(caller, "connection_cut", _SILENT, _SEE_PEER, "connections-cut")
                self._leave(caller)

    def close(self) -> None:
        """Close every connection."""
        for caller in list(self._callers):
            self._leave(caller)

    def hand_over(self, caller: HalfOpen) -> socket.socket:
        """Forget a connection that becomes an association."""
        self._selector.unregister(caller.connection)
        self._callers.pop(caller)
        return caller.connection

    def _make_room(self, caller: HalfOpen) -> None:
        same_host = [other for other in self._callers if other.host == caller.host]
        if len(same_host) >= PER_HOST:
            self._cut(same_host[0])
        elif len(self._callers) >= IN_ALL:
            strangers = [other for other in self._callers if not other.is_peer]
            ((crowd, _count),) = Counter(other.host for other in strangers or self._callers).most_common(1)
            self._cut(next(other for other in self._callers if other.host == crowd))

    def _greet(self, caller: HalfOpen) -> None:
        """Look at the first byte on a port that takes TLS only (RFC 8446), and begin the handshake."""
        first = caller.connection.recv(1, socket.MSG_PEEK)
        if not first:
            self._hung_up(caller)
        elif first[0] == A_ASSOCIATE_RQ:
            self._handshake_failed(
                caller,
                HandshakeProblem("plain DICOM on a port that takes TLS only", "turn TLS on at the peer"),
            )
        else:
            self._selector.unregister(caller.connection)
            assert self._tls is not None
            caller.connection = self._tls.wrap_socket(
                caller.connection, server_side=True, do_handshake_on_connect=False
            )
            self._selector.register(caller.connection, selectors.EVENT_READ, caller)
            caller.phase = "handshake"

    def _shake_hands(self, caller: HalfOpen) -> None:
        try:
            caller.connection.do_handshake()  # type: ignore[attr-defined]
        except _WANTED:
            raise
        except (OSError, ValueError) as problem:
            self._handshake_failed(caller, explain(problem))
        else:
            self._selector.modify(caller.connection, selectors.EVENT_READ, caller)
            caller.phase = "request"

    def _read(self, caller: HalfOpen) -> None:
        """Read what is there of the request; nothing beyond it, that is the association's."""
        while True:
            data = caller.connection.recv(caller.expected_bytes - len(caller.received))
            if not data:
                self._hung_up(caller)
                return
            caller.received += data
            caller.account.charge(len(data))
            if caller.received[0] != A_ASSOCIATE_RQ:
                self._dismiss(caller, _foreign(bytes(caller.received)), UNEXPECTED_PDU)
                return
            if len(caller.received) == HEADER_BYTES:
                caller.expected_bytes += struct.unpack(">L", caller.received[2:])[0]
                if caller.expected_bytes > LARGEST_REQUEST_BYTES:
                    reason = f"a request for an association of more than {LARGEST_REQUEST_BYTES} bytes"
                    self._dismiss(
                        caller,
                        (reason, "propose fewer contexts, or transfer syntaxes, at the peer"),
                        INVALID_PARAMETER,
                    )
                    return
            if len(caller.received) == caller.expected_bytes:
                self._decide(caller)
                return

    def _decide(self, caller: HalfOpen) -> None:
        encoded = bytes(caller.received)
        caller.received.clear()
        caller.account.settle()
        try:
            request = parse_request(encoded)
        except BrokenRequest as fault:
            self._dismiss(
                caller, (str(fault), "the peer's software is at fault: ask its vendor"), INVALID_PARAMETER
            )
            return
        refused = self._welcome(caller, request)
        if refused is not None:
            refusal, answer = refused
            self._refusals.note(refusal)
            self._see_off(caller, answer)

    def _dismiss(self, caller: HalfOpen, words: tuple[str, str], abort_reason: int) -> None:
        self._note(caller, "connection_cut", *words, "connections-cut")
        self._see_off(caller, encode_abort(abort_reason))

    def _see_off(self, caller: HalfOpen, answer: bytes) -> None:
        """Send the last that is said after a moment, and wait a little for the peer to close.

        It would lose the answer in a reset.
        """
        now = self._clock()
        caller.phase, caller.deadline = "leaving", min(caller.deadline, now + _FAREWELL_S)
        caller.answer, caller.answer_at = answer, now + _HESITATION_S
        caller.received.clear()
        caller.account.settle()
        self._unanswered.append(caller)

    def answer(self) -> bool:
        """Send the answers that are due; return whether more are to come."""
        now = self._clock()
        while self._unanswered and self._unanswered[0].answer_at <= now:
            caller = self._unanswered.popleft()
            if caller not in self._callers:
                continue
            try:
                caller.connection.send(caller.answer)
                caller.connection.shutdown(socket.SHUT_WR)
            except OSError:
                self._leave(caller)
        return bool(self._unanswered)

    def _discard(self, caller: HalfOpen) -> None:
        data = caller.connection.recv(LARGEST_REQUEST_BYTES)
        caller.discarded_bytes += len(data)
        if not data or caller.discarded_bytes > LARGEST_REQUEST_BYTES:
            self._leave(caller)

    def _hung_up(self, caller: HalfOpen) -> None:
        if caller.phase == "handshake":
            self._handshake_failed(caller, explain(ConnectionResetError()))
            return
        if caller.phase != "leaving":
            reason = (
                "it hung up before its request was complete"
                if caller.received
                else "it connected, and hung up without a word"
            )
            is_fault = bool(caller.received)
            self._note(caller, "connection_without_request", reason, _SEE_PEER, "hung-up", is_fault=is_fault)
        self._leave(caller)

    def _cut(self, caller: HalfOpen) -> None:
        self._note(caller, "connection_cut", _TOO_MANY, _SEE_PEER, "connections-cut")
        self._leave(caller)

    def _handshake_failed(self, caller: HalfOpen, problem: HandshakeProblem) -> None:
        self._refusals.note(
            Refusal("tls_handshake_failed", caller.host, problem.seen, problem.advice, "handshake-failed")
        )
        self._leave(caller)

    def _note(
        self,
        caller: HalfOpen,
        event: RefusalEvent,
        reason: str,
        advice: str,
        audit_kind: str,
        *,
        is_fault: bool = True,
    ) -> None:
        self._refusals.note(Refusal(event, caller.host, reason, advice, audit_kind, peer_fault=is_fault))

    def _leave(self, caller: HalfOpen) -> None:
        if caller not in self._callers:
            return
        del self._callers[caller]
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._selector.unregister(caller.connection)
        caller.connection.close()
        caller.account.close()


def _foreign(received: bytes) -> tuple[str, str]:
    """Say what came instead of a request for an association, by its first byte."""
    if received[:1] == TLS_HANDSHAKE:
        return "TLS on a port that takes plain DICOM", "turn TLS off at the peer, or on here (network.tls)"
    if received[:1] in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz":
        return (
            "text (HTTP?) where DICOM was expected",
            "somebody's browser, or a monitoring check: point it elsewhere",
        )
    if received[0] <= 7:
        return (
            "another PDU than a request for an association",
            "the peer's software is at fault: ask its vendor",
        )
    return "something that is no DICOM", _SEE_PEER
