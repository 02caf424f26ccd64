"""The short way for C-STORE leans on inner names of pynetdicom: these tests notice when the library changes under it."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.sop_class import Verification

from dicomnode.network import acceptor
from dicomnode.network.association import Receiver
from dicomnode.settings.config import parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from tests.factories import calling
from tests.factories.instances import small_instance


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Receiver]]:
    """Give a function that starts a receiver."""
    started: list[Receiver] = []

    def start(add: Callable[[Any], Any] = lambda _: "new", **network: Any) -> tuple[Receiver, int]:
        config = parse_config({"network": {"port": 0, "ae_title": "NODE", **network}})
        receiver = Receiver(config, SpoolWriter(SpoolLayout(tmp_path / "spool"), 0), add, time.time)
        started.append(receiver)
        return receiver, receiver.start()[1]

    with calling.sockets_closed():
        yield start
    for receiver in started:
        receiver.stop(1.0)


def associate(port: int) -> Association:
    return calling.associate(port, [*calling.MR_EXPLICIT, (Verification, (ExplicitVRLittleEndian,))])


def test_a_store_takes_the_short_way_and_an_echo_the_librarys(listen: Callable[..., Any]) -> None:
    events: list[Any] = []
    receiver, port = listen()
    receiver._server.bind(evt.EVT_DIMSE_RECV, lambda event: events.append(type(event.message).__name__))

    association = associate(port)
    assert association.send_c_store(small_instance(1)).Status == 0
    assert association.send_c_echo().Status == 0
    assert association.send_c_store(small_instance(2)).Status == 0
    association.release()

    assert association.is_released
    assert events == ["C_ECHO_RQ"]


def test_a_command_set_in_pieces_is_answered_the_same(
    listen: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, port = listen()
    association = associate(port)
    whole = association.dimse.__class__.maximum_pdu_size
    # A tiny PDU size on our side breaks the command set into fragments.
    monkeypatch.setattr(association.dimse.__class__, "maximum_pdu_size", property(lambda _: 60))
    answer = association.send_c_store(small_instance(1))
    monkeypatch.setattr(association.dimse.__class__, "maximum_pdu_size", whole)
    association.release()

    assert answer.Status == 0
    assert len(list((tmp_path / "spool" / "incoming").glob("*/*.dcm"))) == 1


def test_a_request_under_a_context_that_was_not_accepted_ends_the_association(
    listen: Callable[..., Any],
) -> None:
    _, port = listen()
    association = associate(port)
    context_id = association.accepted_contexts[0].context_id
    association._accepted_cx[99] = association._accepted_cx.pop(context_id)
    association._accepted_cx[99].context_id = 99

    answer = association.send_c_store(small_instance(1))

    assert "Status" not in answer
    assert _eventually(lambda: association.is_aborted)


def test_a_slow_line_may_take_longer_than_the_network_timeout_for_one_object(
    listen: Callable[..., Any],
) -> None:
    stored: list[Any] = []
    _, port = listen(lambda instance: stored.append(instance) or "new", network_timeout_s=1.2)
    association = associate(port)
    line = association.dul.socket.socket
    line.sendall(_fragment(3, _store_command()))
    for _ in range(8):
        line.sendall(_fragment(0, b"slowly"))
        time.sleep(0.2)
    line.sendall(_fragment(2, b"done"))

    assert _eventually(lambda: bool(stored))
    assert stored[0].size_bytes == 8 * 6 + 4
    assert not association.is_aborted
    association.abort()


def test_noise_within_an_association_ends_it(listen: Callable[..., Any]) -> None:
    _, port = listen()
    association = associate(port)
    association.dul.socket.socket.sendall(struct.pack(">BBL", 4, 0, 3) + b"abc")

    assert _eventually(lambda: association.is_aborted)


def test_a_length_that_nobody_means_reserves_nothing(listen: Callable[..., Any]) -> None:
    _, port = listen(network_timeout_s=0.5)
    association = associate(port)
    association.dul.socket.socket.sendall(struct.pack(">BBL", 4, 0, 0xFFFFFFFF))

    assert _eventually(lambda: association.is_aborted or not association.is_established)
    association.abort()


def test_an_idle_association_costs_next_to_nothing(listen: Callable[..., Any]) -> None:
    receiver, port = listen()
    association = associate(port)
    association.send_c_echo()
    provider = _acceptors(receiver)[0].dul
    looks: list[float] = []
    real = DULServiceProvider._is_transport_event

    def counting(self: DULServiceProvider) -> bool:
        if self is provider:
            looks.append(time.monotonic())
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DULServiceProvider, "_is_transport_event", counting)
        time.sleep(0.4)
    association.release()

    # The library's own loop looks 1000 times a second.
    assert 0 < len(looks) < 150


def test_no_thread_sleeps_through_a_release_or_an_abort(
    listen: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody would wait so long, were it not for the waking.
    monkeypatch.setattr(acceptor, "_REST_S", 600.0)
    receiver, port = listen()
    released, aborted, gone = associate(port), associate(port), associate(port)
    for association in (released, aborted, gone):
        assert association.send_c_echo().Status == 0

    released.release()
    aborted.abort()
    gone.dul.socket.socket.shutdown(socket.SHUT_RDWR)

    assert released.is_released
    assert _eventually(lambda: not _acceptors(receiver)), _stacks(_acceptors(receiver))


def test_a_reader_that_was_woken_before_the_upper_layer_ended_does_not_sleep_on(
    listen: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "_REST_S", 600.0)
    receiver, port = listen()
    association = associate(port)
    assert association.send_c_echo().Status == 0
    reader = _acceptors(receiver)[0]
    real_wake = reader.dul.wake_reader

    def wake_and_linger() -> None:
        real_wake()
        time.sleep(0.3)

    monkeypatch.setattr(reader.dul, "wake_reader", wake_and_linger)
    # It ends without a word to its reader.
    reader.dul.kill_dul()

    assert _eventually(lambda: not _acceptors(receiver)), _stacks(_acceptors(receiver))
    association.abort()


def _acceptors(receiver: Receiver) -> list[Any]:
    """Return the threads of a receiver's associations; those of other tests' peers may outlive their tests."""
    return [
        thread
        for thread in threading.enumerate()
        if isinstance(thread, acceptor.PromptAssociation) and thread._server is receiver._server
    ]


def _stacks(threads: list[Any]) -> str:
    """Return where the threads of associations that have not ended are, and those of their upper layers."""
    frames = sys._current_frames()
    texts = []
    for association in threads:
        state = association.dul.state_machine.current_state
        texts.append(f"{association.name}: state {state}, peer {association.requestor.ae_title}")
        for thread in (association, association.dul):
            if thread.ident in frames:
                texts += traceback.format_stack(frames[thread.ident])
    return "\n".join(texts)


def test_stop_lets_a_store_that_is_under_way_finish(listen: Callable[..., Any]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(_instance: Any) -> str:
        begun.set()
        assert go_on.wait(5)
        return "new"

    receiver, port = listen(slow)
    association = associate(port)
    answers: list[Any] = []
    sender = threading.Thread(
        target=lambda: (answers.append(association.send_c_store(small_instance(1))), association.release())
    )
    sender.start()
    assert begun.wait(5)
    stopper = threading.Thread(target=receiver.stop, args=(5.0,))
    stopper.start()
    time.sleep(0.1)
    go_on.set()
    sender.join(10)
    stopper.join(10)

    assert [answer.Status for answer in answers] == [0]


def _store_command() -> bytes:
    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, number, len(value)) + value

    numbers = {0x0100: 1, 0x0110: 7, 0x0700: 0, 0x0800: 1}
    elements = element(0x0002, b"1.2.840.10008.5.1.4.1.1.4\0") + b"".join(
        element(at, struct.pack("<H", n)) for at, n in numbers.items()
    )
    elements += element(0x1000, b"1.2.3.45")
    return element(0, struct.pack("<L", len(elements))) + elements


def _fragment(control: int, data: bytes) -> bytes:
    value = struct.pack(">LBB", len(data) + 2, 1, control) + data
    return struct.pack(">BBL", 4, 0, len(value)) + value


def _eventually(condition: Callable[[], bool], timeout_s: float = 8.0) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and not condition():
        time.sleep(0.02)
    return condition()


def test_an_event_out_of_turn_ends_the_association_and_not_a_thread_with_an_exception(
    listen: Callable[..., Any],
) -> None:
    """Found by fuzzing: a request that comes while its association is being refused."""
    receiver, port = listen()
    association = associate(port)
    ours = receiver._server.active_associations[0]

    ours.dul.event_queue.put("Evt7")

    for thread in (ours, ours.dul):
        thread.join(20)
    assert not ours.is_alive()
    assert not ours.dul.is_alive()
    assert ours.is_aborted
    association.abort()
