"""Audit messages over TLS to a syslog server: RFC 5424 messages, framed by octet counting (RFC 5425), to whom our authorities vouch for."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest
import structlog.testing

from dicomnode.audit.events import AuditEvent
from dicomnode.audit.trail import AuditTrail
from dicomnode.network.tls import acceptor_context
from dicomnode.processes.app import open_audit
from dicomnode.settings.config import TlsSettings, parse_config
from tests.factories.certificates import Authority, Identity, tls_settings

HEADER = re.compile(r"<84>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \S+ dicomnode \d+ DICOM\+RFC3881 - \ufeff")


class Repository:
    """An audit record repository: takes messages over TLS, one connection at a time, and may hang up after each of them."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.messages: list[str] = []
        self.versions: list[str | None] = []
        self.hangs_up = False
        self.hung_up = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="repository")
        self._thread.start()

    def wait_for(self, count: int) -> list[str]:
        end = time.monotonic() + 30
        while len(self.messages) < count and time.monotonic() < end:
            time.sleep(0.02)
        return list(self.messages)

    def close(self) -> None:
        self._stopping = True
        # Only a shutdown wakes the thread that waits in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)

    def _serve(self) -> None:
        while not self._stopping:
            try:
                plain = self._listener.accept()[0]
            except OSError:
                return
            with plain:
                plain.settimeout(20)
                try:
                    with self._context.wrap_socket(plain, server_side=True) as connection:
                        self.versions.append(connection.version())
                        self._read(connection)
                except OSError:
                    continue

    def _read(self, connection: ssl.SSLSocket) -> None:
        with connection.makefile("rb") as stream:
            while (message := _frame(stream.read)) is not None:
                self.messages.append(message)
                if self.hangs_up:
                    break
        if self.hangs_up:
            connection.shutdown(socket.SHUT_RDWR)
            self.hung_up.set()


Start = Callable[[Authority, Identity], tuple[Repository, AuditTrail]]


def _frame(read: Callable[[int], bytes]) -> str | None:
    """Read one SYSLOG-FRAME, RFC 5425 4.3: MSG-LEN SP SYSLOG-MSG; None at the end."""
    length = b""
    while (digit := read(1)) != b" ":
        if not digit:
            return None
        length += digit
    message = read(int(length))
    assert len(message) == int(length)
    return message.decode()


@pytest.fixture
def authority(tmp_path: Path, require_tool: Callable[[str], str]) -> Authority:
    return Authority(require_tool("openssl"), tmp_path / "ca")


@pytest.fixture
def start(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Give what starts a repository that shows an identity, and the node's trail that sends there."""
    monkeypatch.setattr("dicomnode.audit.syslog._PAUSES_S", (0.05,))
    opened: list[AuditTrail | Repository] = []

    def begin(server_authority: Authority, server: Identity) -> tuple[Repository, AuditTrail]:
        # The server trusts the node's authority; whether the node trusts the server's is the question.
        settings = TlsSettings.model_validate(tls_settings(authority, server))
        repository = Repository(acceptor_context(settings))
        audit = {"syslog_host": "127.0.0.1", "syslog_port": repository.port}
        values = {
            "network": {"ae_title": "NODE"},
            "storage": {"root": str(tmp_path / "node")},
            "audit": audit,
        }
        trail = open_audit(
            parse_config({**values, "tls": tls_settings(authority, authority.issue("node.example"))})
        )
        opened.extend((trail, repository))
        return repository, trail

    yield begin
    for one in opened:
        one.close()


def test_messages_reach_the_repository_whole_and_in_order(start: Start, authority: Authority) -> None:
    repository, trail = start(authority, authority.issue("syslog.example"))
    # Longer in bytes than in characters: the count is of octets.
    hosts = [f"10.0.0.{number}" for number in range(20)]
    for host in hosts:
        trail(
            AuditEvent(
                "association-refused", 4, "STRANGER", host, detail="d\u00e9j\u00e0 vu \U0001f6aa " * 50
            )
        )

    messages = repository.wait_for(20)

    assert [bool(HEADER.match(message)) for message in messages] == [True] * 20
    bodies = [fromstring(message.partition("\ufeff")[2]) for message in messages]
    assert [body.findall("ActiveParticipant")[1].get("NetworkAccessPointID") for body in bodies] == hosts
    assert bodies[0].findtext(".//EventOutcomeDescription") == "d\u00e9j\u00e0 vu \U0001f6aa " * 50
    assert repository.versions == ["TLSv1.3"]


def test_a_repository_that_hung_up_in_the_meantime_misses_nothing(start: Start, authority: Authority) -> None:
    repository, trail = start(authority, authority.issue("syslog.example"))
    repository.hangs_up = True
    for number in range(3):
        trail(AuditEvent("started", detail=f"number {number}"))
        repository.wait_for(number + 1)
        assert repository.hung_up.wait(30)
        repository.hung_up.clear()

    assert [message.count(f"number {number}") for number, message in enumerate(repository.messages)] == [
        1,
        1,
        1,
    ]
    assert len(repository.versions) == 3


def test_a_repository_that_nobody_vouches_for_is_told_nothing(
    start: Start, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    foreign = Authority(require_tool("openssl"), tmp_path / "foreign", "Foreign Authority")
    with structlog.testing.capture_logs() as logged:
        repository, trail = start(foreign, foreign.issue("syslog.example"))
        trail(AuditEvent("started"))
        end = time.monotonic() + 10
        while not logged and time.monotonic() < end:
            time.sleep(0.02)

    assert [(entry["event"], entry["error"]) for entry in logged] == [
        ("audit_server_away", "SSLCertVerificationError")
    ]
    assert repository.messages == []
    # The file is the record.
    assert "started" in (tmp_path / "node" / "audit" / "audit.jsonl").read_text()
