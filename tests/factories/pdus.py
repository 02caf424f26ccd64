"""DICOM upper layer PDUs as bytes, for tests that speak to a listener without a library."""

from __future__ import annotations

import socket
import struct

from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, MaximumLengthNotification

A_RELEASE_RQ = bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0])


def associate_request(called: str = "NODE", calling: str = "RAW") -> bytes:
    """Return an A-ASSOCIATE-RQ for MR images, Explicit VR Little Endian, under context 1."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    context = build_context(MRImageStorage, ExplicitVRLittleEndian)
    context.context_id = 1
    primitive.presentation_context_definition_list = [context]
    length = MaximumLengthNotification()
    length.maximum_length_received = 16384
    primitive.user_information = [length]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return bytes(pdu.encode())


def store_request(uid: str, *, dataset: int) -> bytes:
    """Return the P-DATA-TF PDU of a C-STORE-RQ command."""

    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, number, len(value)) + value

    padded = uid.encode() + b"\0" * (len(uid) % 2)
    body = (
        element(0x0002, str(MRImageStorage).encode() + b"\0")
        + element(0x0100, b"\x01\0")
        + element(0x0110, b"\x07\0")
        + element(0x0700, b"\0\0")
        + element(0x0800, struct.pack("<H", dataset))
        + element(0x1000, padded)
    )
    command = element(0, struct.pack("<L", len(body))) + body
    return pdata(command, control=3)


def pdata(fragment: bytes, control: int, context_id: int = 1) -> bytes:
    value = struct.pack(">LBB", len(fragment) + 2, context_id, control) + fragment
    return struct.pack(">BxL", 4, len(value)) + value


def read_pdu(connection: socket.socket) -> tuple[int, bytes]:
    header = connection.recv(6, socket.MSG_WAITALL)
    if len(header) < 6:
        return 0, b""
    kind, length = struct.unpack(">BxL", header)
    return kind, connection.recv(length, socket.MSG_WAITALL)


def status_of(body: bytes) -> int:
    at = body.index(struct.pack("<HHL", 0, 0x0900, 2)) + 8
    return int(struct.unpack_from("<H", body, at)[0])
