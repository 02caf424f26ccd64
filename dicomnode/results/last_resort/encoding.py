"""Bytes of a DICOM file in Explicit VR Little Endian (PS3.5 7.1.2, PS3.10 7.1), written by hand."""

from __future__ import annotations

import struct

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
LONGEST_SHORT_VALUE = 0xFFFE
"""Bytes of the longest value of a VR with a length of 16 bits."""
_LONG_VRS = ("OB", "SQ", "UT")
Elements = dict[int, bytes]
"""Tag to the whole element as bytes; a tag is (group << 16) + element."""


def put(elements: Elements, tag: int, vr: str, value: bytes | str = b"") -> None:
    """Add one element; a value of odd length is padded (PS3.5 6.2)."""
    encoded = value.encode("ascii") if isinstance(value, str) else value
    encoded += (b"\0" if vr in ("UI", "OB") else b" ") * (len(encoded) % 2)
    elements[tag] = _head(tag, vr, len(encoded)) + encoded


def put_items(elements: Elements, tag: int, *items: Elements) -> None:
    """Add a sequence of these items."""
    encoded = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in map(join, items))
    elements[tag] = _head(tag, "SQ", len(encoded)) + encoded


def join(elements: Elements) -> bytes:
    """Return the elements in the order of their tags."""
    return b"".join(elements[tag] for tag in sorted(elements))


def encode_file(
    dataset: Elements, *, SOPClassUID: str, SOPInstanceUID: str, implementation: tuple[str, str]
) -> bytes:
    """Return a whole DICOM file; `implementation` is the class UID and the version name of the program."""
    meta: Elements = {}
    put(meta, 0x00020001, "OB", b"\0\1")
    put(meta, 0x00020002, "UI", SOPClassUID)
    put(meta, 0x00020003, "UI", SOPInstanceUID)
    put(meta, 0x00020010, "UI", EXPLICIT_LITTLE_ENDIAN)
    put(meta, 0x00020012, "UI", implementation[0])
    put(meta, 0x00020013, "SH", implementation[1])
    length: Elements = {}
    put(length, 0x00020000, "UL", struct.pack("<I", len(join(meta))))
    return bytes(128) + b"DICM" + join(length) + join(meta) + join(dataset)


def _head(tag: int, vr: str, length: int) -> bytes:
    if vr in _LONG_VRS:
        return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr.encode(), 0, length)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), length)
