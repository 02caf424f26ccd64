"""pynetdicom's acceptor with a short way for C-STORE.

It waits for the socket instead of polling, and moves bytes instead of datasets.

Out of the box one association takes some 350 instances of 131 kB a second here, however fast the disk is:
each waits for the 1 ms sleeps of two threads, is read in pieces of 4 kB, and has its command set decoded and
encoded element by element (1.5 ms). Below, the thread that reads a C-STORE answers it. Negotiation, release,
abort, timeouts and every other service stay pynetdicom's.

Rules for this file:
1. It changes how fast things are said, never what is said.
2. It leans on inner names of pynetdicom 3.0; tests/loopback/test_receive_reactor.py fails when one of them
   changes its meaning.
3. Whatever is raised in a thread of an association ends the whole of it: both threads, its socket, its
   memory, its place.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Any

from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import StateMachine
from pynetdicom.pdu_primitives import P_DATA

from dicomnode.network import status
from dicomnode.network.dimse import MessageAssembler, ProtocolFault, decode_uid, encode_response
from dicomnode.network.handlers import AnswerStore, StoreRequest
from dicomnode.network.limits import MemoryAccount
from dicomnode.network.store_check import StoreFault, check_store
from dicomnode.network.timers import SteadyTimer
from dicomnode.network.transport import PromptSocket

# Longest wait for a primitive before it is looked whether one can still come.
_WAIT_S = 0.005
_PAUSE_S = 0.001
_HEADER_BYTES = 6
_P_DATA_TF = 0x04
_AWAITING_REQUEST, _DECIDING, _DATA_TRANSFER, _AWAITING_CLOSE = "Sta2", "Sta3", "Sta6", "Sta13"
_RELEASING = "Sta8"

NoteFault = Callable[[str], None]
"""Takes why an association is broken off, or an instance refused: a sentence of ours."""


class PromptProvider(DULServiceProvider):
    """The upper layer's thread: sleeps in `select` until the peer says something, and answers C-STORE itself.

    Parameters
    ----------
    association
        Whose provider it is.
    account
        Counts what is being received.
    answer_store
        Answers a C-STORE.
    note_broken, note_refused
        Told why the association is broken off, and why an instance is refused.
    """

    socket: PromptSocket | None

    def __init__(
        self,
        association: Any,
        account: MemoryAccount,
        answer_store: AnswerStore,
        note_broken: NoteFault,
        note_refused: NoteFault,
    ) -> None:
        super().__init__(association)
        self._idle_timer, self.artim_timer = SteadyTimer(60), SteadyTimer(30)
        self.state_machine = PromptStateMachine(self)
        self._run_loop_delay = 0  # The wait is in `_is_transport_event`.
        self.daemon = True
        self.account, self._answer_store = account, answer_store
        self._is_serving: Callable[[], bool] = lambda: association.is_serving
        self._called_ae: Callable[[], str] = lambda: association.called_ae
        self.note_broken, self._note_refused = note_broken, note_refused
        self._assembler = MessageAssembler(account)
        # Context ID -> abstract and transfer syntax of what was accepted; known once the peer speaks.
        self._contexts: dict[int, tuple[str, str]] | None = None

    def run_reactor(self) -> None:
        """Run until the association ends; whatever is raised ends it."""
        try:
            super().run_reactor()
        except Exception as problem:  # noqa: BLE001  rule 3
            self.note_broken(f"a fault of ours or of the library: {type(problem).__name__}")
        finally:
            self._kill_thread = True
            self._assembler.reset()
            self.account.close()
            self.wake_reader()

    @property
    def is_ending(self) -> bool:
        """Whether this thread has ended, or will without another event."""
        return self._kill_thread

    def wake_reader(self) -> None:
        """Have the association's own thread look at once at what came for it."""
        messages: Any = self.assoc.dimse
        messages.wake()

    def receive_pdu(self, wait: bool = False, timeout: float | None = None) -> Any:
        """Return the next primitive; a wait ends when this thread has ended, since nothing can come then."""
        end = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while True:
            primitive = super().receive_pdu(wait=wait, timeout=_WAIT_S if wait else None)
            if primitive is not None or not wait or time.monotonic() > end:
                return primitive
            if not self.is_alive():
                return super().receive_pdu(wait=False)

    def _is_transport_event(self) -> bool:
        line, state = self.socket, self.state_machine.current_state
        if state == _AWAITING_CLOSE:
            return self._await_close(line)
        # Nothing is read while an answer of ours is due: one message at a time is counted, and no flood of
        # them waits in a queue.
        if state in (_DECIDING, _RELEASING) or (state == _DATA_TRANSFER and self._is_serving()):
            time.sleep(_PAUSE_S)
            return False
        if self.account.taken_bytes and self._assembler.is_idle:
            # What the library was handed is answered.
            self.account.settle()
        has_come = line is not None and self.event_queue.empty() and line.await_bytes()
        if line is None or not has_come or state != _DATA_TRANSFER:
            # A socket that the other thread has closed: the library's own look makes an event of it.
            return super()._is_transport_event()
        while self._read_pdu_data() and self._may_go_on() and line.await_bytes():
            pass
        return True

    def _may_go_on(self) -> bool:
        """Return whether nothing but the next message is to be looked at: no event, and nothing to send."""
        return not (
            self.event_queue.queue or self.to_provider_queue.queue or self._kill_thread or self._is_serving()
        )

    def _await_close(self, line: PromptSocket | None) -> bool:
        """After a rejection, a release or an abort: wait no longer than the peer still says something."""
        if line is None or line.socket is None:
            self.event_queue.put("Evt17")
        elif not line.drain():
            line.close()
        return True

    def _read_pdu_data(self) -> bool:  # type: ignore[override]  # the library ignores what it returns
        """Read a PDU, or a whole C-STORE and answer it; return whether it was that."""
        if self.state_machine.current_state != _DATA_TRANSFER:
            super()._read_pdu_data()
            return False
        if self._contexts is None:
            self._begin_transfer()
        try:
            # The rest of a dataset is on its way: reading on is quicker than going round the library's loop.
            while self._read_message():
                pass
        except (ProtocolFault, ConnectionAbortedError) as fault:
            self.note_broken(str(fault))
            self.event_queue.put("Evt19")
        except OSError:
            self.event_queue.put("Evt17")
        except Exception as problem:  # noqa: BLE001  rule 3
            self.note_broken(f"a fault of ours: {type(problem).__name__}")
            self.event_queue.put("Evt19")
        return True

    def _begin_transfer(self) -> None:
        """Note what was negotiated, before the first PDU is read."""
        line: Any = self.socket
        line.accept_up_to(self.assoc.acceptor.maximum_length)
        self._contexts = {
            context.context_id or 0: (str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in self.assoc.accepted_contexts
        }

    def _read_message(self) -> bool:
        """Read one PDU; True when it belongs to an incomplete message that is worth reading on."""
        line: Any = self.socket
        header = bytes(line.read(_HEADER_BYTES))
        kind, length = struct.unpack(">BxL", header) if len(header) == _HEADER_BYTES else (0, 0)
        if kind != _P_DATA_TF:
            line.unread(len(header))
            super()._read_pdu_data()
            return False
        body = line.read(length)
        if len(body) < length:
            raise ConnectionResetError
        # The library looks at the clock between two calls of `_read_pdu_data`; a large object over a slow
        # line stays in one.
        self._idle_timer.restart()
        self._assembler.add(body)
        command = self._assembler.command
        if command is not None and command.context_id not in (self._contexts or {}):
            raise ProtocolFault("a message under a presentation context that was not accepted")
        if not self._assembler.complete:
            return command is not None
        try:
            self._take_message()
        finally:
            self._assembler.reset()
        return False

    def _take_message(self) -> None:
        """Answer a C-STORE, hand every other message to the library."""
        command, dataset, too_large = (
            self._assembler.command,
            self._assembler.dataset,
            self._assembler.too_large,
        )
        if command is None:
            raise ProtocolFault("a message without a command set")
        if command.is_store:
            self._assembler.reset()
            try:
                self._send(encode_response(command, self._answer(command, dataset, too_large)))
            finally:
                self.account.settle()
        elif too_large:
            if not command.is_request:
                raise ProtocolFault("a response that is larger than anything we ask for")
            self._note_refused("a request with more data than the node takes: ask for less at a time")
            self._send(encode_response(command, status.RESOURCE_LIMITATION))
        else:
            self._hand_over(command, bytes(dataset))

    def _answer(self, command: Any, dataset: bytearray, too_large: bool) -> int:
        abstract_syntax, transfer_syntax = self._contexts[command.context_id]  # type: ignore[index]
        requestor = self.assoc.requestor
        request = StoreRequest(
            SOPClassUID=decode_uid(command.encoded_class),
            SOPInstanceUID=decode_uid(command.encoded_instance),
            TransferSyntaxUID=transfer_syntax,
            encoded_dataset=dataset,
            calling_ae=requestor.ae_title.strip(),
            peer_host=requestor.address or "",
            called_ae=self._called_ae(),
            too_large=too_large,
        )
        fault: StoreFault | None = check_store(request, abstract_syntax)
        if fault is not None:
            self._note_refused(fault.reason)
            return fault.status
        return self._answer_store(request)

    def _hand_over(self, command: Any, dataset: bytes) -> None:
        """Give the library a whole message, as if it had come in one PDU."""
        # The library checks for lists, and declares tuples.
        primitive: Any = P_DATA()
        primitive.presentation_data_value_list = [[command.context_id, b"\x03" + command.encoded]]
        if command.has_dataset:
            primitive.presentation_data_value_list.append([command.context_id, b"\x02" + dataset])
        try:
            self.assoc.dimse.receive_primitive(primitive)
        except Exception as problem:
            raise ProtocolFault("a message that cannot be read") from problem

    def _send(self, pdu: Any) -> None:
        if isinstance(pdu, bytes):
            if self.socket is not None:
                self.socket.send(pdu)
            return
        super()._send(pdu)


class PromptStateMachine(StateMachine):
    """The state machine of PS3.8 9.2.

    Whatever a peer says out of turn ends its association, and not the thread with an exception.
    """

    dul: PromptProvider

    def do_action(self, event: str) -> None:
        """Do what the table says of an event; where it says nothing, or that fails, break off."""
        state = self.current_state
        if state == _AWAITING_REQUEST and event not in ("Evt6", "Evt17"):
            self.dul.note_broken("the request for an association cannot be decoded")
        try:
            super().do_action(event)
            if self.dul.to_user_queue.queue:
                self.dul.wake_reader()
        except Exception as problem:  # noqa: BLE001  the library raises whatever happened in an action
            self.dul.note_broken(f"an event out of turn in state {state}: {type(problem).__name__}")
            association = self.dul.assoc
            if self.dul.socket is not None:
                self.dul.socket.close()
            association.is_aborted, association.is_established = True, False
            association._kill = True  # noqa: SLF001 - as the library does where it cannot go on
            self.dul.kill_dul()
