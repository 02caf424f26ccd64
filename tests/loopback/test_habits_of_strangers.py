"""Whatever a stranger does, a known peer echoes and stores every second: none is refused, nothing is lost, nothing stays.

The long form plays every habit for a minute: python -m pytest -m faults tests/loopback/test_habits_of_strangers.py
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.factories.calling import MR_EXPLICIT, associate, sockets_closed
from tests.factories.certificates import Authority, client_context, tls_settings
from tests.factories.instances import small_instance
from tests.factories.listening import (
    PEER,
    STRANGER,
    Listening,
    eventually,
    listening,
    resident_mib,
    threads_go_down_to,
)
from tests.factories.pdus import associate_request

REQUEST = associate_request(calling="NOBODY")
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
LEAST_ROUNDS = 5
LARGEST_GROWTH_MIB = 200
LONG_S = float(os.environ.get("DICOMNODE_STRANGER_S", "6"))
LONG_ARTIM_S = min(30.0, LONG_S / 3)

Habit = Callable[[int, list[socket.socket]], None]
"""Plays once with the node's port; what it leaves open goes into the list."""


def call(port: int) -> socket.socket:
    return socket.create_connection((PEER, port), 5, source_address=(STRANGER, 0))


def stay_silent(port: int, opened: list[socket.socket], crowd: int = 20) -> None:
    """Keep so many connections open; the node closes them one after the other."""
    while len(opened) < crowd:
        opened.append(call(port))
    for line in list(opened):
        line.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            try:
                closed = not line.recv(100)
            except ConnectionResetError:
                closed = True
            if closed:
                line.close()
                opened.remove(line)


def drip(port: int, opened: list[socket.socket]) -> None:
    """A byte of a request on each connection at a time."""
    stay_silent(port, opened)
    for line in opened:
        with contextlib.suppress(OSError):
            line.send(REQUEST[:1] if id(line) % 2 else REQUEST[:8])


def connect_and_close(port: int, _opened: list[socket.socket]) -> None:
    for _ in range(4):
        call(port).close()


def reset(port: int, _opened: list[socket.socket]) -> None:
    for _ in range(4):
        line = call(port)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.close()


def say(words: bytes, *, stays: bool = False) -> Habit:
    def habit(port: int, opened: list[socket.socket]) -> None:
        for _ in range(4):
            line = call(port)
            with contextlib.suppress(OSError):
                line.sendall(words)
            if stays and len(opened) < 200:
                opened.append(line)
            else:
                line.close()

    return habit


def greet(context: ssl.SSLContext, words: bytes, *, stays: bool = False) -> Habit:
    """Say so much after a handshake."""

    def habit(port: int, opened: list[socket.socket]) -> None:
        if len(opened) >= 100:
            opened.pop(0).close()
        raw = call(port)
        try:
            line = context.wrap_socket(raw, server_hostname="localhost")
            line.sendall(words)
        except OSError:
            raw.close()
            return
        if stays:
            opened.append(line)
        else:
            line.close()

    return habit


HABITS: dict[str, Habit] = {
    "silent": stay_silent,
    "dripping": drip,
    "connect and close": connect_and_close,
    "reset": reset,
    "http": say(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n"),
    "half a request": say(REQUEST[:60]),
    "half a request, open": say(REQUEST[:60], stays=True),
    "a huge request": say(struct.pack(">BxL", 1, 60 * 2**20) + b"x" * 1000, stays=True),
    "a request": say(REQUEST),
    "a request, open": say(REQUEST, stays=True),
    "a request and noise": say(REQUEST + b"\x04" * 100_000, stays=True),
    "a TLS greeting": say(b"\x16\x03\x01\x02\x00\x01\x00", stays=True),
}


@dataclass
class Minute:
    """What became of the peer and of the node while a stranger played a habit."""

    rounds: int = 0
    problems: list[str] = field(default_factory=list)
    grown_mib: float = 0.0
    log_lines: int = 0
    audit_events: int = 0


def play(
    node: Listening, habit: Habit, seconds: float, pause_s: float, tls: ssl.SSLContext | None = None
) -> Minute:
    """Let the stranger go on for so long while the peer works."""
    threads, memory = threading.active_count(), resident_mib()
    opened: list[socket.socket] = []
    stop = threading.Event()

    def stranger() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                habit(node.port, opened)
            stop.wait(pause_s)

    thread = threading.Thread(target=stranger)
    thread.start()
    minute = Minute()
    end = time.monotonic() + seconds
    try:
        # A busy machine takes longer for them, and is no fault.
        while time.monotonic() < end or minute.rounds < LEAST_ROUNDS:
            began = time.monotonic()
            minute.rounds += 1
            minute.problems += peer_round(node, minute.rounds, tls)
            time.sleep(max(0.0, min(1.0, seconds / 6) - (time.monotonic() - began)))
        minute.grown_mib = resident_mib() - memory
    finally:
        stop.set()
        thread.join(20)
        for line in opened:
            line.close()
    if minute.grown_mib > LARGEST_GROWTH_MIB:
        minute.problems.append(f"memory grew by {minute.grown_mib:.0f} MiB")
    if not threads_go_down_to(threads):
        minute.problems.append(f"{threading.active_count() - threads} threads over")
    if not eventually(lambda: node.held_bytes == 0):
        minute.problems.append("something is still counted")
    minute.log_lines = len(node.lines(STRANGER))
    minute.audit_events = len([event for event in node.audited if event.peer_host == STRANGER])
    return minute


def peer_round(node: Listening, number: int, tls: ssl.SSLContext | None = None) -> list[str]:
    contexts = [*MR_EXPLICIT, (VERIFICATION, (EXPLICIT,))]
    association = associate(node.port, contexts, calling="PEER", tls=tls)
    if not association.is_established:
        return [f"round {number}: refused"]
    instance = small_instance(number)
    statuses = association.send_c_echo().get("Status"), association.send_c_store(instance).get("Status")
    association.release()
    if statuses != (0, 0):
        return [f"round {number}: answered {statuses}"]
    return [] if instance.SOPInstanceUID in node.stored else [f"round {number}: lost"]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    with sockets_closed():
        yield


@pytest.mark.parametrize("habit", HABITS)
def test_a_stranger_keeps_nobody_out(habit: str, tmp_path: Path) -> None:
    with listening(tmp_path, acse_timeout_s=0.7) as node:
        began = time.monotonic()
        minute = play(node, HABITS[habit], 1.5, 0.1)

        assert minute.problems == []
        assert minute.rounds >= LEAST_ROUNDS
        # One line a minute, and the stranger's host in it: what comes again is counted.
        assert 1 <= minute.log_lines <= 1 + (time.monotonic() - began) // 60
        assert node.lines(STRANGER)[0]["reason"]
        assert minute.audit_events >= 1
    assert not [event for event in node.audited if event.peer_host == PEER]


def note_figures(minute: Minute, record_property: Callable[[str, object], None]) -> None:
    for name, figure in vars(minute).items():
        record_property(name, figure)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("habit", HABITS)
def test_a_stranger_keeps_nobody_out_for_a_minute(
    habit: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with listening(tmp_path, acse_timeout_s=LONG_ARTIM_S) as node:
        began = time.monotonic()
        minute = play(node, HABITS[habit], LONG_S, 1.0)
        note_figures(minute, record_property)

        assert minute.problems == []
        assert minute.rounds >= LEAST_ROUNDS
        assert 1 <= minute.log_lines <= 1 + (time.monotonic() - began) // 60
        assert minute.audit_events >= 1


HABITS_AT_TLS = [*HABITS, "half a hello", "greeted, silent", "greeted, a request", "greeted, hung up"]


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("habit", HABITS_AT_TLS)
def test_a_stranger_at_a_port_with_tls_keeps_nobody_out_for_a_minute(
    habit: str,
    tmp_path: Path,
    require_tool: Callable[[str], str],
    record_property: Callable[[str, object], None],
) -> None:
    authority = Authority(require_tool("openssl"), tmp_path / "ca")
    # The stranger has a certificate of the right authority: only its address is nobody's.
    stranger, peer = (client_context(authority, authority.issue(name)) for name in ("stranger", "peer"))
    habits = {
        **HABITS,
        "half a hello": say(b"\x16\x03\x01\x02\x00\x01\x00\x01", stays=True),
        "greeted, silent": greet(stranger, b"", stays=True),
        "greeted, a request": greet(stranger, REQUEST, stays=True),
        "greeted, hung up": greet(stranger, REQUEST[:30]),
    }
    tls = tls_settings(authority, authority.issue("node.example"))
    with listening(tmp_path, tls, acse_timeout_s=LONG_ARTIM_S) as node:
        began = time.monotonic()
        minute = play(node, habits[habit], LONG_S, 1.0, peer)
        note_figures(minute, record_property)

        assert minute.problems == []
        assert minute.rounds >= LEAST_ROUNDS
        assert 1 <= minute.log_lines <= 1 + (time.monotonic() - began) // 60
        assert minute.audit_events >= 1


@pytest.mark.parametrize("habit", ["silent", "connect and close", "http", "half a hello", "a plain request"])
def test_a_stranger_at_a_port_with_tls(
    habit: str, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    authority = Authority(require_tool("openssl"), tmp_path / "ca")
    habits = {
        **HABITS,
        "half a hello": say(b"\x16\x03\x01\x02\x00\x01\x00\x01", stays=True),
        "a plain request": say(REQUEST),
    }
    with listening(
        tmp_path, tls_settings(authority, authority.issue("node.example")), acse_timeout_s=1.0
    ) as node:
        threads = threading.active_count()
        opened: list[socket.socket] = []
        for _ in range(8):
            habits[habit](node.port, opened)
            time.sleep(0.05)
        assert threading.active_count() <= threads

        assert eventually(lambda: bool(node.lines(STRANGER)))
        assert len(node.lines(STRANGER)) == 1
        # The node closes by itself what stays open: ARTIM.
        server = node.receiver._server
        assert server is not None
        assert eventually(lambda: len(server._lobby) == 0)
        for line in opened:
            line.close()


def test_a_connection_ends_after_the_artim_time_whatever_drips(tmp_path: Path) -> None:
    with listening(tmp_path, acse_timeout_s=1.0) as node, call(node.port) as line:
        began = time.monotonic()
        line.settimeout(0.1)
        with contextlib.suppress(ConnectionError):
            for byte in REQUEST:
                line.send(bytes([byte]))
                with contextlib.suppress(TimeoutError):
                    if not line.recv(10):
                        break
        assert 0.9 <= time.monotonic() - began < 5
        assert [event.kind for event in node.audited] == ["connections-cut"]


def test_a_crowd_of_strangers_gives_way_to_a_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dicomnode.network import lobby

    monkeypatch.setattr(lobby, "IN_ALL", 12)
    monkeypatch.setattr(lobby, "PER_HOST", 5)
    with listening(tmp_path) as node, contextlib.ExitStack() as stack:
        server = node.receiver._server
        assert server is not None
        for number in range(40):
            host = f"127.0.1.{number % 8 + 1}"
            stack.enter_context(socket.create_connection((PEER, node.port), 5, source_address=(host, 0)))
        assert eventually(lambda: 0 < len(server._lobby) <= 12)
        assert peer_round(node, 1) == []
        assert len(server._lobby) <= 12


def test_a_peer_whose_titles_are_padded_with_nuls_gets_in(tmp_path: Path) -> None:
    padded = REQUEST[:10] + b"NODE".ljust(16, b"\0") + b"PEER\0rest of memo"[:16] + REQUEST[42:]
    with listening(tmp_path) as node, socket.create_connection((PEER, node.port), 5) as line:
        line.sendall(padded)
        assert line.recv(1) == b"\x02"
        assert [entry["calling_ae"] for entry in node.logged if entry["event"] == "association_accepted"] == [
            "PEER"
        ]


@pytest.mark.parametrize("title", [b"\xff\xfe\x80", b"back\\slash", b"new\nline", b" ", b"\0"])
def test_what_is_no_title_reaches_no_log(title: bytes, tmp_path: Path) -> None:
    with listening(tmp_path) as node, socket.create_connection((PEER, node.port), 5) as line:
        line.sendall(REQUEST[:26] + title.ljust(16) + REQUEST[42:])
        assert line.recv(10) == bytes([3, 0, 0, 0, 0, 4, 0, 1, 1, 3])
        assert eventually(lambda: bool(node.logged))
        assert title.strip().decode("latin-1") not in str(node.logged) or len(title.strip(b" \0")) == 0
        assert [event.kind for event in node.audited] == ["association-refused"]


def test_every_refusal_of_a_request_says_why_in_log_and_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dicomnode.network import refusals

    # A host has one line a minute: here a minute is short.
    monkeypatch.setattr(refusals, "_MINUTE_S", 0.0)
    cases = {
        "calling AE title not recognized": REQUEST,
        "called AE title not recognized": associate_request(called="OTHER", calling="PEER"),
        "application context not supported": associate_request(calling="PEER").replace(
            b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.2"
        ),
        "protocol version not supported": REQUEST[:6] + b"\0\x02" + REQUEST[8:],
    }
    with listening(tmp_path) as node:
        for number, (reason, request) in enumerate(cases.items(), 1):
            with socket.create_connection((PEER, node.port), 5) as line:
                line.sendall(request)
                assert line.recv(10)[0] == 3
                assert eventually(lambda number=number: len(node.audited) == number)  # type: ignore[misc]
                assert eventually(lambda reason=reason: reason in node.logged[-1]["reason"])  # type: ignore[misc]
        with contextlib.ExitStack() as stack:
            for answer in [2] * 8 + [3]:
                line = stack.enter_context(socket.create_connection((PEER, node.port), 5))
                line.sendall(associate_request(calling="PEER"))
                assert line.recv(1) == bytes([answer])
            assert eventually(
                lambda: any("local limit exceeded" in str(entry.get("reason")) for entry in node.logged)
            )
            assert node.audited[-1].peer_host == PEER
