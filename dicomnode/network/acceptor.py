"""One association that a peer asked for.

Made of a request that was read and let in, and cleaned up whatever ends it.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import structlog
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.transport import AddressInformation, AssociationServer

from dicomnode.network.contexts import accepted_contexts
from dicomnode.network.handlers import AnswerStore
from dicomnode.network.limits import MemoryAccount
from dicomnode.network.reactor import PromptProvider
from dicomnode.network.refusals import Refusal, RefusalEvent, Refusals
from dicomnode.network.request import AssociationRequest, encode_abort
from dicomnode.network.transport import PromptSocket, set_timeouts
from dicomnode.network.watch import AssociationListener, AssociationWatch, ignore_associations

log = structlog.get_logger()

# Longest wait for the upper layer to say goodbye, before the connection is closed over its head.
_FAREWELL_S = 2.0
# Longest sleep of an association's own thread before it looks at its timers; it is woken when something came.
_REST_S = 0.1
# The same once the upper layer's thread is about to end.
_LAST_REST_S = 0.005
# Reports on our own commitments that may be served at the same time; the library gives each a thread.
_AT_ONCE = 4
_NOT_GIVEN = 0


@dataclass(frozen=True)
class Service:
    """What all associations of a listener share."""

    entity: AE
    answer_store: AnswerStore
    refusals: Refusals
    other_objects: Literal["keep", "refuse"]
    listener: AssociationListener = ignore_associations
    clock: Callable[[], float] = time.time


class PromptMessages(DIMSEServiceProvider):
    """The message layer: its reader sleeps until something came, and does not ask over and over."""

    def get_msg(self, block: bool = False) -> Any:
        """Return the next (context ID, message), or (None, None)."""
        provider: Any = self.assoc.dul
        # The upper layer's last waking comes a moment before its end: a reader that looked in between, and
        # found it alive, does not go to sleep for long.
        rest_s = _LAST_REST_S if provider.is_ending else _REST_S
        try:
            return self.msg_queue.get(timeout=self.dimse_timeout if block else rest_s)
        except queue.Empty:
            return None, None

    def wake(self) -> None:
        """Have the reader come round: what it waits for may be something else than a message."""
        self.msg_queue.put((None, None))


class PromptAssociation(Association):
    """An association in the role of the acceptor.

    Parameters
    ----------
    service
        What it serves with.
    request
        What the peer asked for.
    connection
        Its connected, blocking socket; the request was read from it.
    account
        Counts what is being received.
    host
        The peer's address.
    """

    def __init__(
        self,
        service: Service,
        request: AssociationRequest,
        connection: socket.socket,
        account: MemoryAccount,
        host: str,
    ) -> None:
        entity = service.entity
        super().__init__(entity, "acceptor")
        self._service, self._request, self._host = service, request, host
        self._account = account
        self._serving = threading.BoundedSemaphore(_AT_ONCE)
        self._served = 0
        self.dimse = PromptMessages(self)
        self._watch = AssociationWatch(request.calling_ae, host, service.listener, service.clock)
        answer_store = self._watch.watch_stores(service.answer_store)
        self.dul = PromptProvider(self, account, answer_store, self._note_broken, self._note_refused)
        # The timers are the provider's, so they are set again.
        self.acse_timeout, self.network_timeout = entity.acse_timeout, entity.network_timeout
        timeout_s = entity.network_timeout or _FAREWELL_S
        set_timeouts(connection, timeout_s)
        self._line = PromptSocket(self, connection, request.for_library(entity.ae_title.strip()), timeout_s)
        self.set_socket(self._line)

    @property
    def called_ae(self) -> str:
        """The AE title that the peer called; it chooses among several on one port."""
        return self._request.called_ae.strip()

    @property
    def is_serving(self) -> bool:
        """Whether a message of the peer is not answered yet."""
        return self._served > 0 or not self.dimse.msg_queue.empty()

    def run_reactor(self) -> None:
        """Negotiate and serve until the association ends; whatever is raised ends all of it."""
        try:
            self.acceptor.supported_contexts = accepted_contexts(
                self._request.contexts, self._service.other_objects
            )
            super().run_reactor()
        except Exception as problem:  # noqa: BLE001  no half of an association outlives the other
            self._note_broken(f"a fault of ours or of the library: {type(problem).__name__}")
            if self._line.socket is not None:
                with contextlib.suppress(OSError):
                    self._line.socket.sendall(encode_abort(_NOT_GIVEN))
        finally:
            self._end()

    def kill(self) -> None:
        """End both threads; the library's own waits for ever where the upper layer hangs."""
        self._reactor_checkpoint.set()
        self._kill, self.is_established, self._is_paused = True, False, True
        deadline = time.monotonic() + _FAREWELL_S
        while self.dul.is_alive() and not self.dul.stop_dul():
            if time.monotonic() > deadline:
                self.dul.kill_dul()
                self._line.close_now()
                return
            time.sleep(0.005)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        """Serve one message.

        What cannot be served ends the association instead of leaving the peer without an answer.
        """
        if msg.MessageIDBeingRespondedTo is None and not msg.is_valid_request:
            self._note_broken("a request that lacks what PS3.7 asks of it")
            self.abort()
            return
        if not self._serving.acquire(blocking=False):
            self._note_broken("more requests at once than an association may have")
            self.abort()
            return
        self._served += 1
        try:
            super()._serve_request(msg, context_id)
        except Exception as problem:  # noqa: BLE001  a thread that ends leaves the peer waiting
            self._note_broken(f"a request that could not be served: {type(problem).__name__}")
            self.abort()
        finally:
            self._served -= 1
            self._serving.release()

    def _end(self) -> None:
        """Leave nothing: neither thread, nor socket, nor memory, nor a place."""
        self.kill()
        self._line.close_now()
        if not (self.is_released or self.is_rejected):
            self.is_aborted = True
        self._watch.end(is_released=self.is_released)
        self._account.close()
        self.dimse.message = None
        with contextlib.suppress(queue.Empty):
            while True:
                self.dimse.msg_queue.get_nowait()

    def _note_broken(self, reason: str) -> None:
        self._note("association_broken_off", reason, "see what the peer sent; its own log may say more")

    def _note_refused(self, reason: str) -> None:
        self._note("instance_refused", reason, "correct it at the peer and send it again")

    def _note(self, event: RefusalEvent, reason: str, advice: str) -> None:
        request = self._request
        self._service.refusals.note(
            Refusal(
                event,
                self._host,
                reason,
                advice,
                "association-refused",
                calling_ae=request.calling_ae,
                called_ae=request.called_ae,
            )
        )


def open_association(
    service: Service,
    server: AssociationServer,
    request: AssociationRequest,
    connection: socket.socket,
    address: tuple[Any, ...],
    account: MemoryAccount,
) -> PromptAssociation:
    """Make the association of a caller who was let in, ready to be started."""
    connection.setblocking(True)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    association = PromptAssociation(service, request, connection, account, str(address[0]))
    association._server = server  # noqa: SLF001 - the library has no other way to say whose it is
    # The library finds its own acceptors by this name.
    association.name = f"AcceptorThread@{datetime.now().astimezone():%Y%m%d%H%M%S}"
    entity = service.entity
    acceptor, requestor = association.acceptor, association.requestor
    acceptor.maximum_length, acceptor.ae_title = entity.maximum_pdu_size, entity.ae_title
    acceptor.implementation_class_uid = entity.implementation_class_uid
    acceptor.implementation_version_name = entity.implementation_version_name
    acceptor.address_info = AddressInformation.from_tuple(server.server_address)
    requestor.address_info = AddressInformation.from_tuple(address)
    for event in server.get_events():
        handlers: Any = server.get_handlers(event)
        for handler, arguments in [handlers] if event.is_intervention else handlers:
            if handler is not None:
                association.bind(event, handler, arguments)
    return association
