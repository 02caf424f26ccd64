"""The socket of an association reads ahead: what is handed out is the stream, whole and in its order."""

from __future__ import annotations

import queue
import random
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dicomnode.network.transport import PromptSocket, set_timeouts

LARGEST = 400_000


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, peers = socket.socketpair()
    with ours, peers:
        yield ours, peers


def open_line(ours: socket.socket, first: bytes, timeout_s: float) -> PromptSocket:
    set_timeouts(ours, timeout_s)
    association: Any = SimpleNamespace(dul=SimpleNamespace(event_queue=queue.Queue()))
    line = PromptSocket(association, ours, first, timeout_s)
    line.accept_up_to(LARGEST)
    return line


@pytest.mark.parametrize("seed", range(6))
def test_what_is_read_is_the_stream_however_it_comes(
    ends: tuple[socket.socket, socket.socket], seed: int
) -> None:
    (ours, peers), chance = ends, random.Random(seed)
    first, sent = chance.randbytes(chance.choice((0, 5, 300))), chance.randbytes(2_000_000)

    def send() -> None:
        start = 0
        while start < len(sent):
            end = start + chance.choice((1, 6, 700, 40_000, 300_000))
            peers.sendall(sent[start:end])
            start = end
        peers.shutdown(socket.SHUT_WR)

    sizes = random.Random(seed + 100)
    line, received = open_line(ours, first, 30.0), bytearray()
    sender = threading.Thread(target=send)
    sender.start()
    while True:
        while sizes.random() < 0.3 and not line.await_bytes():
            pass
        count = sizes.choice((6, 6, 150, 1024, 1025, 65_000, 131_066, 300_000))
        view = line.read(count)
        received += view
        if len(view) < count:
            break
        if sizes.random() < 0.3:
            again = sizes.randint(1, min(count, 6))
            line.unread(again)
            del received[-again:]
    sender.join(30)

    assert bytes(received) == first + sent
    assert (bytes(line.read(6)), line.has_unread) == (b"", False)


def test_a_pdu_that_does_not_end_is_given_up(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, peers = ends
    line = open_line(ours, b"", 0.05)
    peers.sendall(b"x" * 100)

    with pytest.raises(TimeoutError):
        line.read(2000)


def test_what_is_longer_than_announced_is_not_read(ends: tuple[socket.socket, socket.socket]) -> None:
    line = open_line(ends[0], b"", 1.0)

    with pytest.raises(ConnectionAbortedError, match="maximum_pdu_bytes"):
        line.read(LARGEST + 2**20)
