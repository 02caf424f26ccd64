"""pynetdicom's acceptor without its polling: it waits for the socket instead of sleeping a millisecond between two looks at it.

Out of the box one association takes 375 instances of 131 kB a second here, however fast the disk is: each C-STORE waits for the 1 ms
sleeps of two threads and is read in pieces of 4 kB. Below, a C-STORE is served by the thread that read it, and reads are large.

Rules for this file:
1. It changes when things happen, never what is said on the wire: negotiation, state machine and messages are pynetdicom's.
2. It leans on inner names of pynetdicom 3.0; tests/loopback/test_receive_reactor.py fails when one of them changes its meaning.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.transport import AssociationSocket, RequestHandler

# Longest wait before the threads look at their timers and at each other's queues.
_WAIT_S = 0.005


class PromptSocket(AssociationSocket):
    """Reads a whole PDU with as few calls as the kernel allows."""

    def recv(self, nr_bytes: int) -> bytearray:
        """Return `nr_bytes` bytes, fewer when the peer has closed."""
        buffer = bytearray(nr_bytes)
        view, count = memoryview(buffer), 0
        while count < nr_bytes:
            received = self.socket.recv_into(view[count:])  # type: ignore[union-attr]
            if not received:
                break
            count += received
        view.release()
        del buffer[count:]
        return buffer


class PromptProvider(DULServiceProvider):
    """The upper layer's thread: sleeps in `select` until the peer says something."""

    def _is_transport_event(self) -> bool:
        wrapped = self.socket
        if wrapped is not None and wrapped.socket is not None and self.event_queue.empty() and self.state_machine.current_state != "Sta13":
            # A socket that the other thread has closed: the library's own look, next, makes an event of it.
            with contextlib.suppress(OSError, ValueError):
                select.select([wrapped.socket], [], [], _WAIT_S)
        return super()._is_transport_event()


class _ServingQueue(queue.Queue[Any]):
    """The queue between the two threads, except that a C-STORE is served at once by the thread that read it."""

    def __init__(self, association: PromptAssociation) -> None:
        super().__init__()
        self._association = association

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        context_id, message = item
        if isinstance(message, C_STORE) and self._association.serves(context_id, message):
            self._association.serve_store(context_id, message)
        else:
            super().put(item, block, timeout)


class PromptMessages(DIMSEServiceProvider):
    """The message layer: its reader waits a little instead of asking a thousand times a second."""

    def get_msg(self, block: bool = False) -> Any:
        """Return the next (context ID, message), or (None, None)."""
        try:
            return self.msg_queue.get(timeout=self.dimse_timeout if block else _WAIT_S)
        except queue.Empty:
            return None, None


class PromptAssociation(Association):
    """An association whose C-STOREs need no second thread."""

    def serves(self, context_id: int, message: C_STORE) -> bool:
        """Return whether a C-STORE can be answered here and now; what is odd goes the library's way."""
        is_request = message.MessageID is not None and message.Status is None
        return is_request and self.is_established and context_id in self._accepted_cx

    def serve_store(self, context_id: int, message: C_STORE) -> None:
        """Run the storage service on a request, whatever its SOP class: the context was accepted, so it is one that we store."""
        StorageServiceClass(self).SCP(message, self._accepted_cx[context_id])


class PromptRequestHandler(RequestHandler):
    """Makes the association of a new connection."""

    def _create_association(self) -> Any:
        connection: socket.socket = self.request
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Accepted sockets have no timeout of their own: a peer that stops in the middle of a PDU would hold its thread for ever.
        connection.settimeout(self.ae.network_timeout)
        association: Any = super()._create_association()
        # pynetdicom names these classes in its constructors and gives no other way to choose them.
        association.__class__ = PromptAssociation
        association.dul.__class__ = PromptProvider
        association.dul.socket.__class__ = PromptSocket
        association.dimse.__class__ = PromptMessages
        association.dimse.msg_queue = _ServingQueue(association)
        association.dul._run_loop_delay = 0  # noqa: SLF001 - the wait is in PromptProvider
        association.dul.daemon = True
        return association
