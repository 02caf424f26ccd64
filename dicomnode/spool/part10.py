"""The DICOM file format around bytes that are not decoded.

File meta information written, read back and measured; the dataset left alone.

Rules for this file:
1. A dataset is bytes here; nothing below opens one.
2. What `encode_file_meta` writes, `decode_file_meta` reads back the same: the ledger's row comes from what is
   written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

# Preamble, prefix, and (0002,0000) with its 4 byte value: the group length says where the dataset begins.
_FIXED_BYTES = 128 + 4 + 12
# VRs with two reserved bytes and a length of four (PS3.5 7.1.2).
_LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_HOST_SCHEME = "dicom://"
_PREFIX = b"\0" * 128 + b"DICM" + struct.pack("<HH2sH", 0x0002, 0x0000, b"UL", 4)

HEAD_BYTES = _FIXED_BYTES
"""What `dataset_offset` needs to see of a file."""


@dataclass(frozen=True)
class FileMeta:
    """What the file meta information says of an instance that was received (PS3.10 7.1).

    `stored_SOPInstanceUID` is the value with its padding: 0.4.0 made file names from UIDs that end in what
    looks like padding.
    """

    SOPClassUID: str
    SOPInstanceUID: str
    TransferSyntaxUID: str
    calling_ae: str
    peer_host: str
    stored_SOPInstanceUID: str
    called_ae: str = ""


def encode_file_meta(
    *,
    SOPClassUID: str,
    SOPInstanceUID: str,
    TransferSyntaxUID: str,
    calling_ae: str,
    peer_host: str = "",
    called_ae: str = "",
) -> bytes:
    """Return preamble, prefix and File Meta Information for a dataset that was received (PS3.10 7.1).

    Written by hand because it is made for every instance before it is acknowledged; pydicom needs 0.3 ms for
    it.
    """
    before, after = _around_instance(SOPClassUID, TransferSyntaxUID, calling_ae, peer_host, called_ae)
    elements = before + _short(0x0003, b"UI", SOPInstanceUID, b"\0") + after
    return _PREFIX + struct.pack("<L", len(elements)) + elements


@lru_cache(maxsize=256)
def _around_instance(
    SOPClassUID: str, TransferSyntaxUID: str, calling_ae: str, peer_host: str, called_ae: str
) -> tuple[bytes, bytes]:
    """Return the elements before and after (0002,0003): the same for all that one sender sends of a class."""
    before = struct.pack("<HH2sHL2s", 0x0002, 0x0001, b"OB", 0, 2, b"\0\1")
    after = (
        _short(0x0010, b"UI", TransferSyntaxUID, b"\0"),
        _short(0x0012, b"UI", PYDICOM_IMPLEMENTATION_UID, b"\0"),
        _short(0x0013, b"SH", "DICOMNODE", b" "),
        _short(0x0016, b"AE", calling_ae, b" "),
        # Receiving Application Entity Title: whom the sender called.
        _short(0x0018, b"AE", called_ae, b" ") if called_ae else b"",
        # Source Presentation Address: who sent it is not lost with the ledger.
        _long(0x0026, b"UR", _HOST_SCHEME + peer_host) if peer_host else b"",
    )
    return before + _short(0x0002, b"UI", SOPClassUID, b"\0"), b"".join(after)


def decode_file_meta(head: bytes) -> FileMeta | None:
    """Return what a file that starts with `head` (all of its file meta information) says.

    The result is None when it is no such file.
    """
    end = dataset_offset(head)
    if not end or len(head) < end:
        return None
    try:
        values = {
            element: value.decode("ascii", "replace") for element, value in _elements(head, _FIXED_BYTES, end)
        }
    except struct.error:
        return None
    stored = values.get(0x0003, "")
    return FileMeta(
        SOPClassUID=_text(values.get(0x0002, "")),
        SOPInstanceUID=_text(stored),
        TransferSyntaxUID=_text(values.get(0x0010, "")),
        calling_ae=_text(values.get(0x0016, "")),
        peer_host=_text(values.get(0x0026, "")).removeprefix(_HOST_SCHEME),
        stored_SOPInstanceUID=stored,
        called_ae=_text(values.get(0x0018, "")),
    )


def dataset_offset(head: bytes) -> int:
    """Return where the dataset begins in a file that starts with `head` (at least 144 bytes).

    0 when it is no such file.
    """
    if len(head) < _FIXED_BYTES or head[128:132] != b"DICM" or head[132:138] != b"\x02\x00\x00\x00UL":
        return 0
    (group_length,) = struct.unpack_from("<L", head, _FIXED_BYTES - 4)
    return _FIXED_BYTES + int(group_length)


def _elements(head: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    while start < end:
        group, element, vr, length = struct.unpack_from("<HH2sH", head, start)
        start += 8
        if vr in _LONG_VRS:
            (length,) = struct.unpack_from("<L", head, start)
            start += 4
        if group != 0x0002 or start + length > end:
            raise struct.error("no element of the file meta information")
        yield element, head[start : start + length]
        start += length


def _text(stored: str) -> str:
    """Return a value without padding; what no database and no terminal takes is shown as a question mark."""
    return "".join(character if character.isprintable() else "?" for character in stored.strip(" \0"))


def _short(element: int, vr: bytes, value: str, padding: bytes) -> bytes:
    encoded = value.encode("ascii", "replace")
    encoded += padding * (len(encoded) % 2)
    return struct.pack("<HH2sH", 0x0002, element, vr, len(encoded)) + encoded


def _long(element: int, vr: bytes, value: str) -> bytes:
    encoded = value.encode("ascii", "replace")
    encoded += b" " * (len(encoded) % 2)
    return struct.pack("<HH2sHL", 0x0002, element, vr, 0, len(encoded)) + encoded
