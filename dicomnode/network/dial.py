"""Calling a peer: one association, opened with what every caller of ours needs and closed whatever happens.

Rules for this file:
1. Nothing that a peer does raises here: who cannot get through is told why by a `SendOutcome`.
2. Every association that the node opens is opened here, the `doctor`'s probe apart.
"""

from __future__ import annotations

import queue
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from dicomnode.errors import StartError
from dicomnode.network.timers import make_steady
from dicomnode.network.tls import RequestorTls, explain
from dicomnode.records import SendOutcome
from dicomnode.settings.config import DestinationSettings

# A-ASSOCIATE results, PS3.8 Tables 9-18 and 9-21.
_ACCEPTED = 0
_REJECTED_PERMANENT = 1
# How often the wait for an answer looks whether the request is still going out.
_LOOK_S = 0.25

TAKES_NONE = "the peer takes none of the SOP classes and transfer syntaxes of these objects"
"""Reason of an outcome when an association came about but no presentation context was accepted."""


class _Answers(DIMSEServiceProvider):
    """The message layer of a peer that nobody asks anything.

    The library's own thread looks for requests. It is meant to pause while an answer is waited for, but two
    sends that follow each other quickly overtake the pause: the thread then takes the answer for a request
    and drops it, and the sender waits in vain.

    Attributes
    ----------
    is_broken_off
        The connection ended while an answer was waited for.
    """

    is_broken_off = False

    def get_msg(self, block: bool = False) -> Any:
        """Return the next (context ID, message) to who waits for it, nothing to who only looks.

        The time for an answer does not begin while what it answers is still going out: a large object over a
        slow line takes its time.
        """
        timeout_s = self.dimse_timeout
        unsent, progressed_at = self.dul.to_provider_queue.qsize(), time.monotonic()
        while block:
            # Who has ended hands on nothing any more; what came before is in the queue.
            has_ended = not self.dul.is_alive()
            with suppress(queue.Empty):
                message = self.msg_queue.get(timeout=0.0 if has_ended else min(_LOOK_S, timeout_s or _LOOK_S))
                # The library puts nothing in when the connection ends, most of the time.
                self.is_broken_off = message[1] is None
                return message
            if has_ended:
                self.is_broken_off = True
                break
            still_unsent = self.dul.to_provider_queue.qsize()
            if still_unsent < unsent:
                unsent, progressed_at = still_unsent, time.monotonic()
            elif timeout_s is not None and time.monotonic() - progressed_at >= timeout_s:
                break
        return None, None


@contextmanager
def associated(
    destination: DestinationSettings,
    calling_ae: str,
    timeout_s: float,
    contexts: list[PresentationContext],
    *,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    serves: Sequence[Any] = (),
) -> Iterator[Association | SendOutcome]:
    """Give an established association, or why there is none; on leaving it is released.

    Parameters
    ----------
    destination
        Whom to call; its `calling_ae_title` wins over `calling_ae`.
    timeout_s
        Longest wait for the connection and for each answer.
    roles
        Roles to be negotiated (PS3.7 D.3.3.4); none leaves us the SCU of everything.
    serves
        (pynetdicom event, handler) pairs for what the peer may ask of us on this association; none means that
        it may not ask.
    """
    # Its own event log prints what is sent; and a file goes out as its bytes, without being decoded.
    _config.LOG_HANDLER_LEVEL = "none"
    _config.STORE_SEND_CHUNKED_DATASET = True
    entity = AE(ae_title=destination.calling_ae_title or calling_ae)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = (
        timeout_s
    )
    try:
        tls = RequestorTls(destination) if destination.tls else None
    except StartError as problem:
        yield SendOutcome("transient", str(problem))
        return
    with closing_sockets() as opened_sockets:
        try:
            association = entity.associate(
                destination.host,
                destination.port,
                contexts=contexts,
                ae_title=destination.ae_title,
                ext_neg=list(roles),
                evt_handlers=[*opened_sockets, (evt.EVT_CONN_OPEN, _prepare, [bool(serves)]), *serves],
                tls_args=tls.arguments if tls else None,
            )
        except OSError as problem:
            yield SendOutcome("transient", f"{destination.host} cannot be found: {problem.strerror}")
            return
        try:
            yield (
                association
                if association.is_established
                else _no_association(association, tls.problem if tls else None)
            )
        finally:
            hang_up(association)


@contextmanager
def closing_sockets() -> Iterator[list[tuple[Any, Any, list[Any]]]]:
    """Give the event handlers that note an association's sockets; on leaving these are closed.

    The library drops the socket of a connection that fails, or that the peer resets, without closing it.
    """
    opened: list[socket.socket] = []
    try:
        # With TLS the connection is another socket than the one that the request was made with.
        yield [(event, _note_socket, [opened]) for event in (evt.EVT_ACSE_SENT, evt.EVT_CONN_OPEN)]
    finally:
        for opened_socket in opened:
            opened_socket.close()


def hang_up(association: Association) -> None:
    """Release the association without waiting for ever.

    The library's own `release` waits for its thread, which may have ended when the peer broke off.
    """
    if not association.is_established:
        return
    association._reactor_checkpoint.clear()  # noqa: SLF001
    while not association._is_paused and association.is_alive():  # noqa: SLF001
        time.sleep(0.0005)
    if association.is_alive():
        association.acse.negotiate_release()
    association._reactor_checkpoint.set()  # noqa: SLF001


def unanswered(association: Association) -> SendOutcome:
    """Return what became of a request that got no answer.

    The library breaks off an association on which the time for it ran out.
    """
    broken_off = isinstance(association.dimse, _Answers) and association.dimse.is_broken_off
    if association._sent_abort and not broken_off:  # noqa: SLF001
        return SendOutcome("transient", f"no answer within {association.dimse_timeout:g} s")
    return SendOutcome("transient", "the peer broke the association off")


def _note_socket(event: Any, opened: list[socket.socket]) -> None:
    wrapped = event.assoc.dul.socket
    if wrapped is not None and wrapped.socket is not None and wrapped.socket not in opened:
        opened.append(wrapped.socket)


def _prepare(event: Any, peer_may_ask: bool) -> None:
    if not peer_may_ask:
        # The library gives no other way to choose this class.
        event.assoc.dimse.__class__ = _Answers
    make_steady(event.assoc.dul)
    connection: socket.socket = event.assoc.dul.socket.socket
    # Else a small PDU waits for the peer's delayed acknowledgement of the one before it, 40 ms each.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Else a peer that stops reading holds the thread that sends to it for ever, and with it the whole
    # destination.
    timeout_s = event.assoc.network_timeout
    connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
    )


def _no_association(association: Association, tls_problem: OSError | None) -> SendOutcome:
    if tls_problem is not None:
        words = explain(tls_problem)
        return SendOutcome("transient", f"no TLS connection: {words.seen}; {words.advice}")
    answer = association.acceptor.primitive
    if association.is_rejected and answer is not None:
        reason = f"the association was rejected: {answer.reason_str}"
        return SendOutcome("permanent" if answer.result == _REJECTED_PERMANENT else "transient", reason)
    if answer is not None and answer.result == _ACCEPTED and not association.accepted_contexts:
        return SendOutcome("permanent", TAKES_NONE, not_accepted=True)
    return SendOutcome("transient", "the peer cannot be reached, or broke the association off")
