"""The DICOM file format around bytes that are not decoded: file meta information written and measured, the dataset left alone.

Rules for this file:
1. A dataset is bytes here; nothing below opens one.
"""

from __future__ import annotations

import struct

from pydicom.uid import PYDICOM_IMPLEMENTATION_UID

# Preamble, prefix, and (0002,0000) with its 4 byte value: the group length says where the dataset begins.
_FIXED_BYTES = 128 + 4 + 12

HEAD_BYTES = _FIXED_BYTES
"""What `dataset_offset` needs to see of a file."""


def encode_file_meta(*, SOPClassUID: str, SOPInstanceUID: str, TransferSyntaxUID: str, calling_ae: str) -> bytes:
    """Return preamble, prefix and File Meta Information for a dataset that was received (PS3.10 7.1).

    Written by hand because it is made for every instance before it is acknowledged; pydicom needs 0.3 ms for it.
    """
    elements = b"".join(
        (
            struct.pack("<HH2sHL2s", 0x0002, 0x0001, b"OB", 0, 2, b"\0\1"),
            _short(0x0002, b"UI", SOPClassUID, b"\0"),
            _short(0x0003, b"UI", SOPInstanceUID, b"\0"),
            _short(0x0010, b"UI", TransferSyntaxUID, b"\0"),
            _short(0x0012, b"UI", PYDICOM_IMPLEMENTATION_UID, b"\0"),
            _short(0x0013, b"SH", "DICOMNODE", b" "),
            _short(0x0016, b"AE", calling_ae, b" "),
        )
    )
    return b"\0" * 128 + b"DICM" + struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(elements)) + elements


def dataset_offset(head: bytes) -> int:
    """Return where the dataset begins in a file that starts with `head` (at least 144 bytes); 0 when it is no such file."""
    if len(head) < _FIXED_BYTES or head[128:132] != b"DICM" or head[132:138] != b"\x02\x00\x00\x00UL":
        return 0
    (group_length,) = struct.unpack_from("<L", head, _FIXED_BYTES - 4)
    return _FIXED_BYTES + int(group_length)


def _short(element: int, vr: bytes, value: str, padding: bytes) -> bytes:
    encoded = value.encode("ascii", "replace")
    encoded += padding * (len(encoded) % 2)
    return struct.pack("<HH2sH", 0x0002, element, vr, len(encoded)) + encoded
