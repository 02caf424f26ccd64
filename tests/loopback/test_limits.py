"""What one peer may take: associations, connections, memory. Who keeps to his share is served."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.association import Association

from dicomnode.audit.events import Source
from dicomnode.audit.trail import AuditTrail
from dicomnode.network.association import Receiver
from dicomnode.network.sender import send_files
from dicomnode.settings.config import Config, DestinationSettings, parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from tests.factories.calling import associate, sockets_closed
from tests.factories.instances import write_instances
from tests.factories.ledger import new_ledger
from tests.factories.listening import eventually
from tests.factories.pdus import associate_request, pdata, read_pdu, status_of, store_request

MIB = 2**20


@dataclass
class Node:
    """A receiver that is listening."""

    config: Config
    port: int
    receiver: Receiver
    root: Path

    def send(self, files: list[Path], calling: str = "SCANNER") -> set[str]:
        peer = DestinationSettings(name="node", ae_title="NODE", host="127.0.0.1", port=self.port)
        return {
            f"{outcome.verdict}: {outcome.reason}"
            for outcome in send_files(files, peer, calling_ae=calling, timeout_s=20)
        }

    def audited(self) -> list[dict[str, Any]]:
        file = self.root / "audit" / "audit.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def held_bytes(self) -> int:
        server: Any = self.receiver._server
        return int(server.memory.held_bytes)

    def wait_until_nothing_is_held(self) -> None:
        end = time.monotonic() + 10
        while self.held_bytes and time.monotonic() < end:
            time.sleep(0.02)
        assert self.held_bytes == 0


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    with contextlib.ExitStack() as stack:

        def start(peers: list[dict[str, Any]] | None = None, **network: Any) -> Node:
            values = {
                "network": {"port": 0, "ae_title": "NODE", "acse_timeout_s": 5, **network},
                "storage": {"root": str(tmp_path / "node")},
            }
            config = parse_config({**values, "peers": peers or []})
            config.storage.root.mkdir()
            ledger = new_ledger(config.storage.root)
            stack.callback(ledger.close)
            audit = AuditTrail(config.storage.root / "audit", Source("NODE", "here", 1))
            receiver = Receiver(
                config,
                SpoolWriter(SpoolLayout(config.storage.spool), 0),
                ledger.instances.add,
                time.time,
                audit=audit,
            )
            stack.callback(receiver.stop, 1.0)
            return Node(config, receiver.start()[1], receiver, config.storage.root)

        yield start


@pytest.fixture
def calls() -> Iterator[list[Association]]:
    """Associations that the test opens; released at its end."""
    with sockets_closed():
        opened: list[Association] = []
        yield opened
        for association in opened:
            association.abort()


@contextlib.contextmanager
def raw_association(port: int, calling: str = "RAW") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.settimeout(20)
        connection.sendall(associate_request(calling=calling))
        assert read_pdu(connection)[0] == 2
        yield connection


def test_one_peer_has_his_share_and_no_more(
    start_node: Callable[..., Node], calls: list[Association], tmp_path: Path
) -> None:
    node = start_node(maximum_associations=12, maximum_associations_per_peer=5)
    calls += [associate(node.port, calling="GREEDY") for _ in range(9)]
    files = write_instances(tmp_path / "study", 3)

    assert [call.is_established for call in calls] == [True] * 5 + [False] * 4
    assert {
        (
            call.acceptor.primitive.result,
            call.acceptor.primitive.result_source,
            call.acceptor.primitive.diagnostic,
        )
        for call in calls[5:]
    } == {(2, 3, 2)}
    assert node.send(files, "MODEST") == {"ok: 0x0000: success"}
    calls[0].release()
    assert eventually(lambda: node.send(files, "GREEDY") == {"ok: 0x0000: success"})


def test_a_crowd_of_one_peer_at_the_same_moment_gets_no_more_than_his_share(
    start_node: Callable[..., Node], calls: list[Association]
) -> None:
    node = start_node(maximum_associations=20, maximum_associations_per_peer=5)
    callers = [
        threading.Thread(target=lambda: calls.append(associate(node.port, calling="GREEDY")))
        for _ in range(8)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()

    assert sorted(call.is_established for call in calls) == [False] * 3 + [True] * 5
    assert [call.is_rejected for call in calls].count(True) == 3


def test_who_connects_and_says_nothing_fills_his_own_share_only(
    start_node: Callable[..., Node], tmp_path: Path
) -> None:
    node = start_node(maximum_associations=6, acse_timeout_s=3)
    threads_before = threading.active_count()
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", node.port), 10)) for _ in range(60)
        ]
        end = time.monotonic() + 10
        while not node.audited() and time.monotonic() < end:
            time.sleep(0.05)
        assert threading.active_count() - threads_before <= 2 * 6 + 2
        assert len(silent) == 60
    assert [event["event"] for event in node.audited()] == ["connections-cut"]
    assert node.audited()[0]["EventID"]["code"] == "110113"
    end = time.monotonic() + 20
    while (sent := node.send(write_instances(tmp_path / "study", 1))) != {"ok: 0x0000: success"}:
        assert time.monotonic() < end, sent
        time.sleep(0.2)


@pytest.mark.parametrize("fragments_of_command", [1, 2])
def test_an_instance_that_is_too_large_is_refused_before_memory_grows(
    start_node: Callable[..., Node], fragments_of_command: int
) -> None:
    node = start_node(maximum_instance_mb=1)
    with raw_association(node.port) as connection:
        command = store_request("1.2.3.4", dataset=1)
        if fragments_of_command == 1:
            connection.sendall(command)
        else:
            whole = command[12:]
            connection.sendall(pdata(whole[:20], 1) + pdata(whole[20:], 3))
        largest = 0
        with contextlib.suppress(OSError):
            for _ in range(40):
                connection.sendall(pdata(b"\0" * 65536, 0))
                largest = max(largest, node.held_bytes)
            connection.sendall(pdata(b"\0" * 10, 2))
        kind, body = read_pdu(connection)
        assert (kind, status_of(body)) == (4, 0xA700)
        # The association goes on: the next one fits.
        connection.sendall(store_request("1.2.3.5", dataset=1) + pdata(b"\x08\0\x05\0CS\x02\0AB", 2))
        kind, body = read_pdu(connection)
        assert (kind, status_of(body)) == (4, 0)
        # The dataset's limit, and what of the command is counted with it.
        assert largest <= MIB + len(command)
    node.wait_until_nothing_is_held()


def test_all_together_have_a_share_of_memory(start_node: Callable[..., Node], tmp_path: Path) -> None:
    node = start_node(maximum_instance_mb=3, receive_memory_mb=4)
    with raw_association(node.port, "A") as first:
        first.sendall(
            store_request("1.2.3.4", dataset=1) + b"".join(pdata(b"\0" * 65536, 0) for _ in range(45))
        )
        end = time.monotonic() + 10
        while node.held_bytes < 45 * 65536 and time.monotonic() < end:
            time.sleep(0.02)
        with raw_association(node.port, "B") as second:
            second.sendall(
                store_request("1.2.3.5", dataset=1)
                + b"".join(pdata(b"\0" * 65536, 0) for _ in range(30))
                + pdata(b"\0\0", 2)
            )
            assert status_of(read_pdu(second)[1]) == 0xA700
        assert node.send(write_instances(tmp_path / "study", 1)) == {"ok: 0x0000: success"}
    # The first one is gone in the middle of its dataset: nothing of it is counted any more.
    node.wait_until_nothing_is_held()


def test_a_node_with_too_many_open_studies_asks_to_come_again(
    start_node: Callable[..., Node], tmp_path: Path
) -> None:
    node = start_node()
    node.receiver.congested = True
    assert {answer.split(":")[0] for answer in node.send(write_instances(tmp_path / "study", 1))} == {
        "transient"
    }
    node.receiver.congested = False
    assert node.send(write_instances(tmp_path / "again", 1)) == {"ok: 0x0000: success"}


def test_a_stranger_is_refused_and_audited_once_a_minute(
    start_node: Callable[..., Node], tmp_path: Path
) -> None:
    node = start_node(peers=[{"ae_title": "KNOWN", "hosts": ["127.0.0.1"]}], accept_unknown_peers="never")
    files = write_instances(tmp_path / "study", 1)

    assert {answer.split(":")[0] for _ in range(5) for answer in node.send(files, "STRANGER")} == {
        "permanent"
    }
    assert node.send(files, "KNOWN") == {"ok: 0x0000: success"}
    events = node.audited()
    assert [(event["event"], event["peer"], event["EventOutcomeIndicator"]) for event in events] == [
        ("association-refused", {"ae_title": "STRANGER", "host": "127.0.0.1"}, 4)
    ]
    assert "add it" in events[0]["detail"]
