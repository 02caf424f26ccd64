"""What the short way for C-STORE checks instead of the library, what is counted, and what is bounded besides (PS3.7 C.5, PS3.4 B.2.3)."""

from __future__ import annotations

import contextlib
import gc
import itertools
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, MaximumLengthNotification
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from tests.factories.listening import PEER, Listening, eventually, listening, resident_mib
from tests.factories.pdus import read_pdu, status_of

CLASSES = (str(MRImageStorage), str(Verification), str(StorageCommitmentPushModel), str(CTImageStorage))
MIB = 2**20
MESSAGE_ID = 7


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


def command(field: int, uids: dict[int, bytes], *, dataset: int = 1) -> bytes:
    body = b"".join(
        element(number, value + b"\0" * (len(value) % 2)) for number, value in uids.items() if number < 0x100
    )
    numbers = {
        0x0100: field,
        0x0110: MESSAGE_ID,
        0x0800: dataset,
        **({0x1008: 1} if field == 0x0130 else {0x0700: 0}),
    }
    body += b"".join(
        element(number, struct.pack("<H", value))
        for number, value in sorted(numbers.items())
        if number < 0x1000
    )
    body += b"".join(
        element(number, value + b"\0" * (len(value) % 2)) for number, value in uids.items() if number >= 0x100
    )
    body += b"".join(
        element(number, struct.pack("<H", value))
        for number, value in sorted(numbers.items())
        if number >= 0x1000
    )
    return element(0, struct.pack("<L", len(body))) + body


def store(SOPClassUID: bytes, SOPInstanceUID: bytes) -> bytes:
    return command(1, {0x0002: SOPClassUID, 0x1000: SOPInstanceUID})


def pdata(context_id: int, control: int, fragment: bytes) -> bytes:
    return struct.pack(">BxLLBB", 4, len(fragment) + 6, len(fragment) + 2, context_id, control) + fragment


def dataset(SOPClassUID: bytes, SOPInstanceUID: bytes) -> bytes:
    def text(number: int, vr: bytes, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HH2sH", 8, number, vr, len(value)) + value

    return (
        text(0x05, b"CS", b"ISO_IR 100") + text(0x16, b"UI", SOPClassUID) + text(0x18, b"UI", SOPInstanceUID)
    )


@contextlib.contextmanager
def call(port: int, classes: tuple[str, ...] = CLASSES) -> Iterator[socket.socket]:
    """Associate; the context of class number n has the identifier 2 n + 1."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID("1.2.840.10008.3.1.1.1")
    primitive.calling_ae_title, primitive.called_ae_title = "PEER", "NODE"
    contexts = [build_context(uid, ExplicitVRLittleEndian) for uid in classes]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = contexts
    length = MaximumLengthNotification()
    length.maximum_length_received = 16384
    primitive.user_information = [length]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    with socket.create_connection((PEER, port), 20) as line:
        line.sendall(bytes(pdu.encode()))
        assert read_pdu(line)[0] == 2
        yield line


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Listening]:
    with listening(tmp_path, maximum_associations_per_peer=20) as started:
        yield started


MR, CT = MRImageStorage.encode(), CTImageStorage.encode()


@pytest.mark.parametrize(
    ("context_id", "SOPClassUID", "SOPInstanceUID", "expected"),
    [
        (1, MR, b"1.2.3", 0x0000),
        (1, MR, b"1.02.003", 0x0000),  # as scanners write them
        (1, MR, b"1" * 64, 0x0000),
        (3, str(Verification).encode(), b"1.2.3", 0x0122),
        (3, MR, b"1.2.3", 0x0122),
        (5, str(StorageCommitmentPushModel).encode(), b"1.2.3", 0x0122),
        (1, CT, b"1.2.3", 0x0122),
        (7, MR, b"1.2.3", 0x0122),
        (1, b"", b"1.2.3", 0x0122),
        (1, b"../../etc/passwd", b"1.2.3", 0x0122),
        *(
            (1, MR, uid, 0xC000)
            for uid in (
                b"\n",
                b"1.2\\3.4",
                b"1" * 65,
                b"DOE^JOHN",
                b"",
                b"1.2.",
                b".1",
                b"1..2",
                b"\xff",
                b"1.2 3",
            )
        ),
    ],
)
def test_class_and_uid_of_a_request(
    node: Listening, context_id: int, SOPClassUID: bytes, SOPInstanceUID: bytes, expected: int
) -> None:
    with call(node.port) as line:
        for cut in (None, 20):
            whole = store(SOPClassUID, SOPInstanceUID)
            pieces = [whole] if cut is None else [whole[:cut], whole[cut:]]
            line.sendall(
                b"".join(pdata(context_id, 3 if piece is pieces[-1] else 1, piece) for piece in pieces)
            )
            line.sendall(pdata(context_id, 2, dataset(SOPClassUID, SOPInstanceUID)))
            kind, body = read_pdu(line)
            assert (kind, status_of(body)) == (4, expected)
    accepted = expected == 0
    assert len(list((node.spool / "incoming").glob("*/*.dcm"))) == int(accepted)
    assert ("instance_refused" in [entry["event"] for entry in node.logged]) is not accepted
    written = str([entry for entry in node.logged if entry["event"] != "association_accepted"] + node.audited)
    assert not any(text in written for text in ("passwd", "DOE", "1..2", "1" * 65, "\\xff"))


@pytest.mark.parametrize(
    ("SOPClassUID", "SOPInstanceUID", "expected"),
    [(CT, b"1.2.3", 0xA900), (MR, b"1.2.4", 0xA900), (MR, b"1.2.x", 0xC000), (MR, b"1.2.3 ", 0x0000)],
)
def test_a_dataset_that_is_another_one(
    node: Listening, SOPClassUID: bytes, SOPInstanceUID: bytes, expected: int
) -> None:
    with call(node.port) as line:
        line.sendall(pdata(1, 3, store(MR, b"1.2.3")) + pdata(1, 2, dataset(SOPClassUID, SOPInstanceUID)))
        assert status_of(read_pdu(line)[1]) == expected


def in_group_20(element_number: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", 0x20, element_number, b"UI", len(value)) + value


@pytest.mark.parametrize("number", [0x0D, 0x0E], ids=["study", "series"])
@pytest.mark.parametrize(
    ("uid", "expected"),
    [
        (b"1.2.003", 0x0000),
        (b"", 0x0000),
        *(
            (uid, 0xC000)
            for uid in (b"1.2.ANON.5", b"1" * 66, b"1.2.", b"1.2\\1.3", b"DOE^JOHN", b"1..2", b"\xe9\xe8")
        ),
    ],
)
def test_the_study_and_series_of_a_dataset_are_uids(
    node: Listening, number: int, uid: bytes, expected: int
) -> None:
    # A sequence of undefined length, as scanners put before them, hides nothing.
    sequence = (
        struct.pack("<HH2sHL", 8, 0x1110, b"SQ", 0, 0xFFFFFFFF)
        + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        + struct.pack("<HH2sH", 8, 0x1155, b"UI", 6)
        + b"1.2.9\0"
        + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
        + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    )
    with call(node.port) as line:
        line.sendall(pdata(1, 3, store(MR, b"1.2.3")))
        line.sendall(pdata(1, 2, dataset(MR, b"1.2.3") + sequence + in_group_20(number, uid)))
        assert status_of(read_pdu(line)[1]) == expected
    assert len(list((node.spool / "incoming").glob("*/*.dcm"))) == int(not expected)
    assert "DOE" not in str(node.logged)


def test_objects_that_are_refused_cannot_come_under_another_class(tmp_path: Path) -> None:
    with listening(tmp_path, other_objects="refuse") as node, call(node.port) as line:
        line.sendall(pdata(1, 3, store(CT, b"1.2.3")) + pdata(1, 2, dataset(CT, b"1.2.3")))
        assert status_of(read_pdu(line)[1]) == 0x0122
        line.sendall(pdata(1, 3, store(MR, b"1.2.3")) + pdata(1, 2, dataset(CT, b"1.2.3")))
        assert status_of(read_pdu(line)[1]) == 0xA900
    assert node.stored == []


@pytest.mark.parametrize("ways", ["whole command", "command in pieces", "single pdu", "small fragments"])
def test_one_account_counts_every_byte_on_every_path(ways: str, tmp_path: Path) -> None:
    """A3: eight peers with 370 MiB each, in small: 8 x 6 MiB where 16 MiB are allowed."""
    gc.collect()
    before, highest, statuses = resident_mib(), 0.0, []
    with listening(tmp_path, maximum_instance_mb=8, receive_memory_mb=16, maximum_pdu_bytes=2 * MIB) as node:
        with contextlib.ExitStack() as stack:
            lines = [stack.enter_context(call(node.port)) for _ in range(8)]
            for number, line in enumerate(lines):
                whole = store(MR, b"1.2.%d" % number)
                pieces = (
                    [whole[at : at + 10] for at in range(0, len(whole), 10)]
                    if ways == "command in pieces"
                    else [whole]
                )
                line.sendall(b"".join(pdata(1, 3 if piece is pieces[-1] else 1, piece) for piece in pieces))
            size = {"single pdu": MIB, "small fragments": 4096}.get(ways, 65536)
            for _ in range(6 * MIB // size):
                for line in lines:
                    line.sendall(pdata(1, 0, b"\0" * size))
                highest = max(highest, node.held_bytes / MIB)
            for line in lines:
                line.sendall(pdata(1, 2, b"\0\0"))
                statuses.append(status_of(read_pdu(line)[1]))
            peak = resident_mib()
        assert eventually(lambda: node.held_bytes == 0)
    assert highest <= 16
    assert set(statuses) == {0, 0xA700}
    assert peak - before < 16 + 8 * 3 + 40


def test_a_message_that_is_no_store_is_counted_and_bounded(node: Listening) -> None:
    """A10: an N-ACTION with more than the node takes is refused by status, and costs neither time nor log."""
    with call(node.port) as line:
        uids = {0x0003: str(StorageCommitmentPushModel).encode(), 0x1001: b"1.2.840.10008.1.20.1.1"}
        line.sendall(pdata(5, 3, command(0x0130, uids)))
        began = time.process_time()
        for _ in range(12 * 16):
            line.sendall(pdata(5, 0, b"\0" * 65536))
            assert node.held_bytes <= 2 * MIB
        line.sendall(pdata(5, 2, b"\0\0"))
        kind, body = read_pdu(line)
        assert (kind, status_of(body)) == (4, 0x0213)
        assert time.process_time() - began < 10
        # The association goes on.
        line.sendall(pdata(1, 3, store(MR, b"1.2.3")) + pdata(1, 2, dataset(MR, b"1.2.3")))
        assert status_of(read_pdu(line)[1]) == 0
    assert len([entry for entry in node.logged if entry["event"] == "instance_refused"]) <= 1


def test_a_pdu_that_is_larger_than_announced_reserves_nothing(node: Listening) -> None:
    with call(node.port) as line:
        line.sendall(struct.pack(">BxL", 4, 60 * MIB))
        assert read_pdu(line)[0] in (0, 7)
    assert eventually(lambda: "association_broken_off" in [entry["event"] for entry in node.logged])


def test_many_messages_at_once_wait_at_the_peer(node: Listening) -> None:
    echo = command(0x0030, {0x0002: str(Verification).encode()}, dataset=0x0101)
    with call(node.port) as line:
        line.sendall(pdata(3, 3, echo) * 50)
        assert [status_of(read_pdu(line)[1]) for _ in range(50)] == [0] * 50


@pytest.mark.parametrize(
    "nonsense",
    [
        pdata(1, 3, element(0x0100, b"\x01\0")),  # no message ID
        pdata(1, 3, b"\1\2\3"),
        pdata(9, 3, store(MR, b"1.2.3")),  # a context that was not accepted
        pdata(1, 2, b"a dataset of nothing"),
        pdata(1, 1, b"") * 3,
        pdata(3, 3, command(0x0030, {}, dataset=0x0101)),  # C-ECHO without its class
        pdata(5, 3, command(0x0130, {0x0003: b"1.2.840.10008.1.20.1"})) + pdata(5, 2, b"\xff" * 100),
    ],
)
def test_nonsense_within_an_association_ends_it_and_is_logged_once(node: Listening, nonsense: bytes) -> None:
    server = node.receiver._server
    assert server is not None
    with call(node.port) as line:
        line.settimeout(20)
        line.sendall(nonsense)
        answers = list(itertools.takewhile(bool, iter(lambda: read_pdu(line)[0], 0)))
        assert answers in ([7], [], [4])
    assert eventually(lambda: server.active_associations == [])
    assert (
        len(
            [
                entry
                for entry in node.logged
                if entry["event"] in ("association_broken_off", "association_aborted")
            ]
        )
        >= 1
    )
