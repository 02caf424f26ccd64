"""A C-STORE sender that costs next to nothing.

What is sent is laid out before, and answers are only looked at for their status.

`storescu` takes as much of a processor as a receiver does; on two cores it is what one measures then. This
one takes some 0.1 ms an instance.

    python -m scripts.bench.light_sender PORT AE_TITLE FOLDER [FOLDER ...]     # an association, and a
    process, per folder
"""

from __future__ import annotations

import multiprocessing
import socket
import ssl
import struct
import sys
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pydicom

_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
_EXPLICIT_LITTLE = b"1.2.840.10008.1.2.1"
_CONTEXT_ID = 1
_STATUS = 0x0900
_LARGEST_PDU_BYTES = 131_072
_MAXIMUM_LENGTH = b"\x51\0\0\x04"


def send_light(
    port: int, ae_title: str, batches: Sequence[Sequence[Path]], tls: tuple[Path, Path] | None = None
) -> float:
    """Send each batch of folders over an association of its own at the same time.

    With `tls`, a certificate that is its own authority and its key, each connection is secured by them.
    Return the seconds from the first request to the last answer.

    `SystemExit` when one instance is not answered 0x0000.
    """
    ready = multiprocessing.Barrier(len(batches) + 1)
    spans: multiprocessing.Queue[tuple[float, float]] = multiprocessing.Queue()
    senders = [
        multiprocessing.Process(target=_send_batch, args=(port, ae_title, batch, ready, spans, tls))
        for batch in batches
    ]
    for sender in senders:
        sender.start()
    ready.wait(120)
    times = [spans.get(timeout=600) for _ in senders]
    for sender in senders:
        sender.join()
    if any(began < 0 for began, _ in times):
        raise SystemExit("an instance was not answered 0x0000")
    return max(ended for _, ended in times) - min(began for began, _ in times)


def _send_batch(
    port: int,
    ae_title: str,
    folders: Sequence[Path],
    ready: Barrier,
    spans: multiprocessing.Queue[tuple[float, float]],
    tls: tuple[Path, Path] | None,
) -> None:
    files = [path for folder in folders for path in sorted(folder.iterdir())]
    classes = sorted({str(pydicom.dcmread(path, stop_before_pixels=True).SOPClassUID) for path in files[:1]})
    with _connect(port, tls) as connection:
        connection.sendall(_request(ae_title, classes[0]))
        kind, accepted = _read_pdu(connection)
        if kind != 2:
            raise SystemExit("the association was not accepted")
        fragment_bytes = _largest_pdu(accepted) - 6
        messages = [_message(path, number, fragment_bytes) for number, path in enumerate(files, start=1)]
        ready.wait(120)
        began, is_well = time.time(), True
        for message in messages:
            connection.sendall(message)
            _kind, body = _read_pdu(connection)
            is_well = is_well and _status(body) == 0
        ended = time.time()
        connection.sendall(b"\x05\0\0\0\0\x04\0\0\0\0")
        _read_pdu(connection)
    spans.put((began if is_well else -1.0, ended))


def _connect(port: int, tls: tuple[Path, Path] | None) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is None:
        return connection
    context = ssl.create_default_context(cafile=str(tls[0]))
    context.check_hostname = False
    context.load_cert_chain(*tls)
    return context.wrap_socket(connection)


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _request(ae_title: str, SOPClassUID: str) -> bytes:
    """Return an A-ASSOCIATE-RQ (PS3.8 9.3.2) for one class in Explicit VR Little Endian."""
    context = (
        struct.pack(">BBBB", _CONTEXT_ID, 0, 0, 0)
        + _item(0x30, SOPClassUID.encode())
        + _item(0x40, _EXPLICIT_LITTLE)
    )
    user = _item(0x51, struct.pack(">L", 2**17)) + _item(0x52, b"1.2.3.4")
    body = struct.pack(">HH16s16s32x", 1, 0, ae_title.encode().ljust(16), b"LIGHT".ljust(16))
    body += _item(0x10, _APPLICATION_CONTEXT) + _item(0x20, context) + _item(0x50, user)
    return struct.pack(">BBL", 1, 0, len(body)) + body


def _largest_pdu(accepted: bytes) -> int:
    """Return how long a PDU may be by an A-ASSOCIATE-AC (PS3.8 D.1), as dcmtk takes it: at most 128 KiB."""
    place = accepted.find(_MAXIMUM_LENGTH)
    announced = int(struct.unpack_from(">L", accepted, place + 4)[0]) if place >= 0 else 0
    return min(announced or _LARGEST_PDU_BYTES, _LARGEST_PDU_BYTES)


def _message(path: Path, message_id: int, fragment_bytes: int) -> bytes:
    """Return all P-DATA-TF PDUs of a C-STORE-RQ (PS3.7 9.3.1.1) with a file's dataset."""
    data = path.read_bytes()
    meta = pydicom.filereader.read_file_meta_info(path)
    offset = 144 + struct.unpack_from("<L", data, 140)[0]
    elements = b"".join(
        (
            _element(0x0002, str(meta.MediaStorageSOPClassUID).encode()),
            _element(0x0100, struct.pack("<H", 1)),
            _element(0x0110, struct.pack("<H", message_id % 65_536)),
            _element(0x0700, struct.pack("<H", 0)),
            _element(0x0800, struct.pack("<H", 1)),
            _element(0x1000, str(meta.MediaStorageSOPInstanceUID).encode()),
        )
    )
    command = _element(0x0000, struct.pack("<L", len(elements))) + elements
    pdus = [_pdu(3, command)]
    dataset = data[offset:]
    for start in range(0, len(dataset), fragment_bytes):
        is_last = start + fragment_bytes >= len(dataset)
        pdus.append(_pdu(2 if is_last else 0, dataset[start : start + fragment_bytes]))
    return b"".join(pdus)


def _element(element: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHL", 0, element, len(value)) + value


def _pdu(control: int, fragment: bytes) -> bytes:
    body = struct.pack(">LBB", len(fragment) + 2, _CONTEXT_ID, control) + fragment
    return struct.pack(">BBL", 4, 0, len(body)) + body


def _read_pdu(connection: socket.socket) -> tuple[int, bytes]:
    header = _read(connection, 6)
    kind, length = struct.unpack(">BxL", header)
    return kind, _read(connection, length)


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        received = connection.recv(count - len(data))
        if not received:
            raise SystemExit("the receiver has hung up")
        data += received
    return data


def _status(body: bytes) -> int:
    """Return the status of a C-STORE-RSP: the element (0000,0900); -1 without one."""
    position = 6
    while position + 8 <= len(body):
        element, length = struct.unpack_from("<2xHL", body, position)
        if element == _STATUS:
            return int.from_bytes(body[position + 8 : position + 8 + length], "little")
        position += 8 + length
    return -1


if __name__ == "__main__":
    print(f"{send_light(int(sys.argv[1]), sys.argv[2], [[Path(name)] for name in sys.argv[3:]]):.3f} s")
