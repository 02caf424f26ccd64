"""Requests for an association, mutated along their structure: each is answered or its connection closed in time, and nothing of it stays."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.factories.listening import PEER, Listening, eventually, listening, threads_go_down_to

SEED = 20261129
INPUTS = int(os.environ.get("DICOMNODE_FUZZED_REQUESTS", "400"))
ARTIM_S = 1.0
# What may follow after the answer, or in its place.
ANSWERS = (b"", b"\x02", b"\x03", b"\x07")
UIDS = (
    b"1.2.840.10008.5.1.4.1.1.4", b"1.2.840.10008.1.1", b"1.2.840.10008.1.20.1", b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1",
    b"", b"\0", b"1", b"1.2.", b"1..2", b"letters", b"1" * 65, b"1.02.3", b"\xff\xfe", b"../../etc/passwd",
)  # fmt: skip


class Chance(random.Random):
    """A seeded chance that takes the odd way now and then, more often in some requests than in others."""

    oddity = 0.1

    def pick(self, usual: Any, *odd: Any) -> Any:
        return self.choice(odd) if self.random() < self.oddity else usual


def item(kind: int, value: bytes, chance: Chance | None = None) -> bytes:
    """Return an item; now and then its length is wrong."""
    length = len(value)
    if chance is not None:
        length = chance.pick(length, 0, 1, length + 1, max(0, length - 1), length * 2, 0xFFFF)
    return struct.pack(">BxH", kind, length & 0xFFFF) + value


def user_information(chance: Chance) -> bytes:
    length = struct.pack(">L", chance.pick(16384, 0, 1, 2**32 - 1))
    sub_items = [item(0x51, length, chance), item(0x52, chance.pick(b"1.2.3", *UIDS), chance)]
    for _ in range(chance.pick(0, 1, 2, 3)):
        kind = chance.choice((0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x00, 0xFF))
        uid = chance.choice(UIDS)
        shapes = (
            b"",
            b"\0",
            chance.randbytes(chance.randrange(60)),
            struct.pack(">HH", 5, 5),
            struct.pack(">H", len(uid)) + uid + b"\1\1",
        )
        sub_items.append(item(kind, chance.choice(shapes), chance))
    chance.shuffle(sub_items)
    return b"".join(sub_items[chance.pick(0, 1) :])


def context(chance: Chance, number: int) -> bytes:
    syntaxes = [item(0x40, chance.pick(UIDS[4], *UIDS), chance) for _ in range(chance.pick(1, 0, 2, 5))]
    abstract = [item(0x30, chance.pick(UIDS[0], *UIDS), chance) for _ in range(chance.pick(1, 0, 2))]
    identifier = chance.pick(number * 2 + 1, 1, 0, 2, 255) & 0xFF
    return item(chance.pick(0x20, 0x21), bytes([identifier, 0, 0, 0]) + b"".join(abstract + syntaxes), chance)


def fuzzed_request(chance: Chance) -> bytes:
    """Return an A-ASSOCIATE-RQ with something odd about it, most of the time."""
    chance.oddity = chance.choice((0.005, 0.02, 0.1, 0.4))
    items = [item(0x10, chance.pick(b"1.2.840.10008.3.1.1.1", *UIDS), chance)]
    items += [context(chance, number) for number in range(chance.pick(2, 0, 1, 8, 140))]
    items += [item(0x50, user_information(chance), chance) for _ in range(chance.pick(1, 0, 2))]
    if chance.pick(False, True):
        chance.shuffle(items)
    called, calling = (
        chance.pick(b"NODE", b"NODE\0", b"OTHER", b"\xe9", b""),
        chance.pick(b"PEER", b"PEER\0\0", b"\n", b"X" * 16),
    )
    version = chance.pick(1, 0, 2, 3, 0xFFFF)
    body = struct.pack(">HH", version, 0) + called.ljust(16) + calling.ljust(16) + bytes(32) + b"".join(items)
    return (
        struct.pack(">BxL", 1, chance.pick(len(body), 0, 4, len(body) - 1, len(body) + 1, 2**31, 2**32 - 1))
        + body
    )


def ask(port: int, request: bytes, holds_on: bool) -> bytes | None:
    """Send it and return the type of the answer, empty when the connection was closed; None when neither came."""
    with socket.create_connection((PEER, port), 10) as line:
        line.settimeout(ARTIM_S + 20)
        try:
            line.sendall(request)
            answer = line.recv(1)
            # An association that was accepted is left alone, or spoken to out of turn.
            if answer == b"\x02" and holds_on:
                line.sendall(b"\x05\0\0\0\0\x04\0\0\0\0")
            return answer
        except TimeoutError:
            return None
        except OSError:
            return b""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Listening]:
    with listening(
        tmp_path, acse_timeout_s=ARTIM_S, network_timeout_s=3, maximum_associations_per_peer=20
    ) as started:
        yield started


# pydicom warns of a UID that is none, here an error; the node goes on.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.timeout(600)
def test_a_fuzzed_request_is_answered_or_closed_and_leaves_nothing(node: Listening) -> None:
    threads = threading.active_count()
    chance = Chance(SEED)
    answers: list[bytes | None] = []
    callers: list[threading.Thread] = []
    for _ in range(INPUTS):
        request, holds_on = fuzzed_request(chance), chance.random() < 0.5
        callers.append(
            threading.Thread(
                target=lambda request=request, holds_on=holds_on: answers.append(
                    ask(node.port, request, holds_on)
                )
            )
        )  # type: ignore[misc]
        callers[-1].start()
        while sum(caller.is_alive() for caller in callers[-12:]) >= 10:
            time.sleep(0.005)
    for caller in callers:
        caller.join(60)

    assert len(answers) == INPUTS
    assert None not in answers
    assert set(answers) <= set(ANSWERS)
    # The generator is no use where everything is refused at once.
    assert {b"\x02", b"\x03", b"\x07"} <= set(answers)
    assert threads_go_down_to(threads)
    server = node.receiver._server
    assert server is not None
    assert eventually(lambda: server.active_associations == [])
    assert eventually(lambda: len(server._lobby) == 0)
    assert eventually(lambda: node.held_bytes == 0)
    written = str([{**entry, "host": ""} for entry in node.logged])
    assert not any(text in written for text in ("passwd", "letters", "1..2", "\\xff", "\\n"))


def test_a_context_without_transfer_syntax_ends_at_once_however_often(node: Listening) -> None:
    """A5: each of these left a thread of the library behind, and a connection that no timeout ended."""
    threads = threading.active_count()
    bare = item(0x20, b"\x01\0\0\0" + item(0x30, UIDS[0]))
    items = item(0x10, b"1.2.840.10008.3.1.1.1") + bare + item(0x50, item(0x51, b"\0\0\x40\0"))
    body = struct.pack(">HH", 1, 0) + b"NODE".ljust(16) + b"PEER".ljust(16) + bytes(32) + items
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            line = stack.enter_context(socket.create_connection((PEER, node.port), 10))
            line.sendall(struct.pack(">BxL", 1, len(body)) + body)
            assert line.recv(10) == b"\x07\0\0\0\0\x04\0\0\x02\x06"
        assert threading.active_count() <= threads
    assert [entry["reason"] for entry in node.lines(PEER)] == [
        "a presentation context has no transfer syntax"
    ]
