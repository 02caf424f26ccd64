"""pynetdicom's acceptor with a short way for C-STORE: it waits for the socket instead of polling, and moves bytes instead of datasets.

Out of the box one association takes some 350 instances of 131 kB a second here, however fast the disk is: each waits for the 1 ms sleeps
of two threads, is read in pieces of 4 kB, and has its command set decoded and encoded element by element (1.5 ms). Below, the thread that
reads a C-STORE answers it. Negotiation, release, abort, timeouts, C-ECHO and every unusual message stay pynetdicom's.

Rules for this file:
1. It changes how fast things are said, never what is said.
2. It leans on inner names of pynetdicom 3.0; tests/loopback/test_receive_reactor.py fails when one of them changes its meaning.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import ssl
import struct
from typing import Any

import structlog
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import StateMachine
from pynetdicom.transport import AssociationSocket, RequestHandler

from dicomnode.network.dimse import ProtocolFault, StoreAssembler, decode_uid, encode_store_response, fragments
from dicomnode.network.handlers import AnswerStore, StoreRequest
from dicomnode.network.limits import MemoryAccount, ReceiveMemory
from dicomnode.network.timers import make_steady

log = structlog.get_logger()

# Longest wait before the threads look at their timers and at each other's queues.
_WAIT_S = 0.005
_HEADER_BYTES = 6
_P_DATA_TF = 0x04
# Nobody may have us reserve more than this by a length field; senders keep to the maximum that we announce.
_LARGEST_PDU_BYTES = 64 * 2**20
_DATA_TRANSFER = "Sta6"


class PromptSocket(AssociationSocket):
    """Reads a whole PDU with as few calls as the kernel allows, and can take back what was read."""

    _unread = b""
    _buffer = bytearray()

    def recv(self, nr_bytes: int) -> bytearray:
        """Return `nr_bytes` bytes, fewer when the peer has closed."""
        return bytearray(self.read(nr_bytes))

    def read(self, count: int) -> memoryview:
        """Return `count` bytes, fewer when the peer has closed; they are valid until the next call."""
        if count > _LARGEST_PDU_BYTES:
            raise ConnectionAbortedError("the peer announces a PDU that nobody means")
        if len(self._buffer) < count:
            self._buffer = bytearray(count)
        view = memoryview(self._buffer)[:count]
        taken, self._unread = self._unread[:count], self._unread[count:]
        view[: len(taken)] = taken
        done = len(taken)
        while done < count:
            # TLS takes no flags, and gives a record of at most 16 KiB a call.
            flags = 0 if isinstance(self.socket, ssl.SSLSocket) else socket.MSG_WAITALL
            received = self.socket.recv_into(view[done:], 0, flags)  # type: ignore[union-attr]
            if not received:
                break
            done += received
        return view[:done]

    def _shutdown_socket(self) -> None:
        super()._shutdown_socket()
        # Where the peer has reset the connection the library gets no further than the shutdown.
        if self.socket is not None:
            self.socket.close()

    def unread(self, data: bytes) -> None:
        """Give back what was read, so that it is read again."""
        self._unread = data + self._unread


def _has_decrypted(connection: socket.socket | None) -> bool:
    """Return whether TLS holds bytes that are read from the socket already: `select` would wait for others."""
    return isinstance(connection, ssl.SSLSocket) and connection.pending() > 0


class PromptProvider(DULServiceProvider):
    """The upper layer's thread: sleeps in `select` until the peer says something, and answers C-STORE itself."""

    answer_store: AnswerStore
    assembler: StoreAssembler
    account: MemoryAccount
    # What the library has been given of one message that it reads itself.
    left_bytes = 0
    largest_bytes = 0
    # Context ID -> transfer syntax of what was accepted; known once the peer speaks.
    syntaxes: dict[int, str] | None = None

    def _is_transport_event(self) -> bool:
        connection: Any = self.socket.socket if self.socket is not None else None
        waits = connection is not None and self.event_queue.empty() and self.state_machine.current_state != "Sta13"
        if waits and not _has_decrypted(connection):
            # A socket that the other thread has closed: the library's own look, next, makes an event of it.
            with contextlib.suppress(OSError, ValueError):
                select.select([connection], [], [], _WAIT_S)
        return super()._is_transport_event()

    def _read_pdu_data(self) -> None:
        if self.state_machine.current_state != _DATA_TRANSFER:
            super()._read_pdu_data()
            return
        try:
            # The rest of a dataset is on its way: reading on is quicker than going round the library's loop.
            while self._read_store():
                pass
        except (ProtocolFault, ConnectionAbortedError):
            self.event_queue.put("Evt19")
        except OSError:
            self.event_queue.put("Evt17")

    def _read_store(self) -> bool:
        """Read one PDU; True when it belongs to a C-STORE that is not complete yet."""
        connection: Any = self.socket
        header = bytes(connection.read(_HEADER_BYTES))
        kind, length = struct.unpack(">BxL", header) if len(header) == _HEADER_BYTES else (0, 0)
        if kind != _P_DATA_TF:
            connection.unread(header)
            super()._read_pdu_data()
            return False
        body = connection.read(length)
        if len(body) < length:
            raise ConnectionResetError
        # The library looks at the clock between two calls of `_read_pdu_data`; a large object over a slow line stays in one.
        self._idle_timer.restart()
        if not self.assembler.add(body):
            self._count_left(body)
            connection.unread(header + bytes(body))
            super()._read_pdu_data()
            return False
        if self.assembler.complete:
            self._answer()
        return self.assembler.command is not None

    def _count_left(self, body: memoryview) -> None:
        """Hold a message that the library reads itself to the same size as others; it would keep whatever comes."""
        last_control = 0
        for _context, control, fragment in fragments(body):
            self.left_bytes += len(fragment)
            last_control = control
        if last_control & 2:
            self.left_bytes = 0
        elif self.left_bytes > self.largest_bytes:
            raise ProtocolFault("a message that is larger than network.maximum_instance_mb")

    def _answer(self) -> None:
        try:
            self._answer_from(self.assembler.dataset)
        finally:
            self.account.settle()

    def _answer_from(self, dataset: bytearray) -> None:
        command, too_large = self.assembler.command, self.assembler.too_large
        self.assembler.reset()
        if self.syntaxes is None:
            self.syntaxes = {context.context_id or 0: str(context.transfer_syntax[0]) for context in self.assoc.accepted_contexts}
        if command is None or command.context_id not in self.syntaxes:
            raise ProtocolFault("a request under a presentation context that was not accepted")
        requestor = self.assoc.requestor
        request = StoreRequest(
            SOPClassUID=decode_uid(command.encoded_class),
            SOPInstanceUID=decode_uid(command.encoded_instance),
            TransferSyntaxUID=self.syntaxes[command.context_id],
            encoded_dataset=dataset,
            calling_ae=requestor.ae_title.strip(),
            peer_host=requestor.address or "",
            too_large=too_large,
        )
        self.socket.send(encode_store_response(command, self.answer_store(request)))  # type: ignore[union-attr]


class PromptStateMachine(StateMachine):
    """The state machine of PS3.8 9.2: whatever a peer says out of turn ends its association, and not the thread with an exception."""

    def do_action(self, event: str) -> None:
        """Do what the table says of an event; where it says nothing, or that fails, break off."""
        try:
            super().do_action(event)
        except Exception as problem:  # noqa: BLE001  the library raises whatever happened in the middle of an action
            log.warning("association_broken_off", state=self.current_state, error=type(problem).__name__)
            association = self.dul.assoc
            if self.dul.socket is not None:
                self.dul.socket.close()
            association.is_aborted, association.is_established = True, False
            association._kill = True  # noqa: SLF001 - as the library does where it cannot go on
            self.dul.kill_dul()


class PromptMessages(DIMSEServiceProvider):
    """The message layer: its reader waits a little instead of asking a thousand times a second."""

    def get_msg(self, block: bool = False) -> Any:
        """Return the next (context ID, message), or (None, None)."""
        try:
            return self.msg_queue.get(timeout=self.dimse_timeout if block else _WAIT_S)
        except queue.Empty:
            return None, None


class PromptRequestHandler(RequestHandler):
    """Makes the association of a new connection. Its server has `answer_store` and `memory`."""

    def _create_association(self) -> Any:
        connection: socket.socket = self.request
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Without them a peer that stops in the middle of a PDU, or reads no answers, would hold its thread for ever. As options of the
        # socket and not as Python's own timeout, which makes the socket non-blocking: one call could not read a whole PDU then.
        timeout_s = self.ae.network_timeout or 0
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6)))
        association: Any = super()._create_association()
        # pynetdicom names these classes in its constructors and gives no other way to choose them.
        association.dul.__class__ = PromptProvider
        make_steady(association.dul)
        association.dul.socket.__class__ = PromptSocket
        association.dimse.__class__ = PromptMessages
        association.dul.answer_store = self.server.answer_store  # type: ignore[attr-defined]
        memory: ReceiveMemory = self.server.memory  # type: ignore[attr-defined]
        provider = association.dul
        provider.state_machine.__class__ = PromptStateMachine
        provider.assembler = StoreAssembler()
        provider.account = memory.account(lambda: not provider.ident or provider.is_alive(), provider.assembler.reset)
        provider.assembler.allow = provider.account.allow
        association.dul.largest_bytes = memory.largest_bytes
        association.dul._run_loop_delay = 0  # noqa: SLF001 - the wait is in PromptProvider
        association.dul.daemon = True
        return association
