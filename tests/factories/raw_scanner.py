"""A scanner that speaks DICOM byte by byte, so that it can say what no library would send: odd titles, classes and UIDs."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from tests.factories.odd_studies import OddInstance
from tests.factories.pdus import A_RELEASE_RQ, pdata, read_pdu, status_of

REFUSED_ASSOCIATION = -1
REFUSED_CONTEXT = -2
"""Instead of a status: the association, or the presentation context, was refused."""
_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
_A_ASSOCIATE_AC, _P_DATA_TF = 2, 4
_FRAGMENT_BYTES = 8 * 2**10


def send_study(port: int, instances: Sequence[OddInstance], calling_ae: str) -> list[int]:
    """Send the instances of a study over one association; return the status of each, or what was refused before it.

    An association that the node ends is begun again for the next instance.
    """
    statuses: list[int] = []
    while len(statuses) < len(instances):
        statuses += _send_some(port, instances[len(statuses) :], calling_ae)
    return statuses


def _send_some(port: int, instances: Sequence[OddInstance], calling_ae: str) -> list[int]:
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(encode_request(instances, calling_ae))
        kind, body = read_pdu(line)
        if kind != _A_ASSOCIATE_AC:
            return [REFUSED_ASSOCIATION] * len(instances)
        accepted = _accepted(body)
        statuses: list[int] = []
        for number, instance in enumerate(instances):
            context_id = 2 * number + 1
            if context_id not in accepted:
                statuses.append(REFUSED_CONTEXT)
                continue
            line.sendall(_store(instance, context_id))
            kind, answer = read_pdu(line)
            if kind != _P_DATA_TF:
                return [*statuses, REFUSED_ASSOCIATION]
            statuses.append(status_of(answer))
        line.sendall(A_RELEASE_RQ)
        read_pdu(line)
        return statuses


def encode_request(instances: Sequence[OddInstance], calling_ae: str) -> bytes:
    contexts = b"".join(
        _item(
            0x20,
            struct.pack("BBBB", 2 * number + 1, 0, 0, 0)
            + _item(0x30, instance.SOPClassUID.encode("utf-8"))
            + _item(0x40, instance.TransferSyntaxUID.encode()),
        )
        for number, instance in enumerate(instances)
    )
    user = _item(0x50, _item(0x51, struct.pack(">L", 16384)) + _item(0x52, b"2.25.20261129"))
    title = calling_ae.encode("latin-1", "replace")[:16].ljust(16)
    fixed = struct.pack(">HH", 1, 0) + b"NODE".ljust(16) + title + bytes(32)
    body = fixed + _item(0x10, _APPLICATION_CONTEXT) + contexts + user
    return struct.pack(">BxL", 1, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _accepted(body: bytes) -> set[int]:
    """Return the identifiers of the contexts that an A-ASSOCIATE-AC accepts (PS3.8 9.3.3)."""
    accepted, offset = set(), 68
    while offset + 4 <= len(body):
        kind, length = struct.unpack_from(">BxH", body, offset)
        if kind == 0x21 and body[offset + 6] == 0:
            accepted.add(body[offset + 4])
        offset += 4 + length
    return accepted


def _store(instance: OddInstance, context_id: int) -> bytes:
    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHL", 0, number, len(value)) + value

    command = (
        element(0x0002, instance.SOPClassUID.encode("utf-8"))
        + element(0x0100, b"\x01\0")
        + element(0x0110, b"\x07\0")
        + element(0x0700, b"\0\0")
        + element(0x0800, b"\x01\0")
        + element(0x1000, instance.SOPInstanceUID.encode("utf-8"))
    )
    message = pdata(element(0, struct.pack("<L", len(command))) + command, 3, context_id)
    fragments = [
        instance.dataset[start : start + _FRAGMENT_BYTES]
        for start in range(0, max(1, len(instance.dataset)), _FRAGMENT_BYTES)
    ]
    for fragment in fragments:
        message += pdata(fragment, 2 if fragment is fragments[-1] else 0, context_id)
    return message
