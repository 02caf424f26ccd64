"""The clock jumps while an association is open: who is sending goes on, and who is gone is not waited for until the old time comes back."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicomnode.network.association import Receiver
from dicomnode.settings.config import parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from tests.factories.ledger import new_ledger
from tests.factories.pdus import associate_request, pdata, read_pdu, status_of, store_request

DATASET = b"\x08\0\x05\0CS\x02\0AB"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    config = parse_config(
        {
            "network": {"port": 0, "ae_title": "NODE", "network_timeout_s": 3},
            "storage": {"root": str(tmp_path / "node")},
        }
    )
    config.storage.root.mkdir()
    ledger = new_ledger(config.storage.root)
    receiver = Receiver(
        config, SpoolWriter(SpoolLayout(config.storage.spool), 0), ledger.instances.add, time.time
    )
    yield receiver
    receiver.stop(1.0)
    ledger.close()


@pytest.fixture
def port(receiver: Receiver) -> int:
    return receiver.start()[1]


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    really = time.time
    return lambda seconds: monkeypatch.setattr(time, "time", lambda: really() + seconds)


@contextlib.contextmanager
def associated(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.settimeout(20)
        connection.sendall(associate_request(calling="RAW"))
        assert read_pdu(connection)[0] == 2
        yield connection


def store(connection: socket.socket, uid: str) -> tuple[int, int]:
    connection.sendall(store_request(uid, dataset=1) + pdata(DATASET, 2))
    kind, body = read_pdu(connection)
    return kind, status_of(body)


def idle_timer(receiver: Receiver) -> Any:
    server: Any = receiver._server
    (association,) = server.active_associations
    return association.dul._idle_timer


@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
def test_who_is_sending_goes_on(
    receiver: Receiver, port: int, jump: Callable[[float], None], seconds: float
) -> None:
    with associated(port) as connection:
        assert store(connection, "1.2.3.1") == (4, 0)
        timer = idle_timer(receiver)
        jump(seconds)
        assert 0 < timer.remaining <= 3
        assert not timer.expired
        # Long enough for the thread of the association to look at it.
        time.sleep(0.5)
        assert store(connection, "1.2.3.2") == (4, 0)


def test_who_says_nothing_is_let_go_in_time(port: int, jump: Callable[[float], None]) -> None:
    with associated(port) as connection:
        assert store(connection, "1.2.3.1") == (4, 0)
        jump(-3600.0)
        began = time.monotonic()
        # An A-ABORT (7), or the end of the connection (0).
        assert read_pdu(connection)[0] in (0, 7)
        assert time.monotonic() - began < 15
