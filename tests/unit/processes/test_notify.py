"""Signs of life: they reach who listens, and who does not listen keeps nobody waiting."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from dicomnode.processes.notify import open_notifier


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + listener.getsockname()[1:].decode())
        yield listener


def test_a_sign_reaches_who_listens(listener: socket.socket) -> None:
    notifier = open_notifier()
    with closing(notifier.socket):
        notifier.notify("READY=1")

    assert listener.recv(100) == b"READY=1"


def test_one_that_never_reads_is_waited_for_a_moment_only(listener: socket.socket) -> None:
    notifier = open_notifier(wait_s=0.05)
    # As many as the kernel keeps for one that does not read (net.unix.max_dgram_qlen).
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filling, suppress(BlockingIOError):
        filling.setblocking(False)
        filling.connect(listener.getsockname())
        while True:
            filling.send(b"WATCHDOG=1")

    began = time.monotonic()
    with closing(notifier.socket):
        notifier.notify("STOPPING=1")

    assert 0.04 < time.monotonic() - began < 20
