"""The UIDs of an encoded dataset, found by walking over its elements; nothing else of it is looked at.

Pure functions of bytes. What cannot be walked over is left to who reads the headers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicomnode.network.dimse import decode_uid

SOP_CLASS, SOP_INSTANCE = 0x00080016, 0x00080018
STUDY_INSTANCE, SERIES_INSTANCE = 0x0020000D, 0x0020000E

_IDENTITY = frozenset((SOP_CLASS, SOP_INSTANCE, STUDY_INSTANCE, SERIES_INSTANCE))
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_UNDEFINED_LENGTH = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DELIMITERS = frozenset((_ITEM, _ITEM_END, _SEQUENCE_END))
# Before (0020,000E) a header has some eighty elements, those inside sequences counted.
_MOST_ELEMENTS = 5000


def dataset_uids(encoded: bytes | bytearray, TransferSyntaxUID: str) -> dict[int, str]:
    """Return SOP Class, SOP Instance, Study and Series Instance UID of a dataset by tag, without padding.

    Only those that the walk comes to: it ends where elements do not ascend (PS3.5 7.1), and where the bytes
    are no elements. None is decoded but these four: some tens of microseconds.
    """
    uids: dict[int, str] = {}
    if TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        return uids
    previous = 0
    for tag, start, end in _Walk(encoded, TransferSyntaxUID).elements():
        if not previous < tag <= SERIES_INSTANCE:
            break
        previous = tag
        if tag in _IDENTITY:
            uids[tag] = decode_uid(bytes(encoded[start:end]))
    return uids


class _Walk:
    """Goes from element to element of one dataset."""

    def __init__(self, encoded: bytes | bytearray, TransferSyntaxUID: str) -> None:
        self._encoded = encoded
        order = ">" if TransferSyntaxUID == ExplicitVRBigEndian else "<"
        # Group, element, VR and a length of two bytes; a length of four bytes.
        self._unpack_head = struct.Struct(f"{order}HH2sH").unpack_from
        self._unpack_long = struct.Struct(f"{order}L").unpack_from
        self._is_implicit = TransferSyntaxUID == ImplicitVRLittleEndian
        self._remaining = _MOST_ELEMENTS

    def elements(self) -> Iterator[tuple[int, int, int]]:
        """Yield tag, and start and end of the value, of the elements outside sequences."""
        offset = 0
        while (element := self._read(offset, is_implicit=self._is_implicit)) is not None:
            tag, start, length, content_is_implicit = element
            if length == _UNDEFINED_LENGTH:
                offset = self._end_of_sequence(start, is_implicit=content_is_implicit)
                if offset < 0:
                    return
            else:
                offset = start + length
            if offset > len(self._encoded):
                return
            yield tag, start, offset

    def _read(self, offset: int, *, is_implicit: bool) -> tuple[int, int, int, bool] | None:
        """Return tag, start and length of the value, and whether a sequence in it is of implicit VR."""
        self._remaining -= 1
        if offset + 8 > len(self._encoded) or not self._remaining:
            return None
        group, element, vr, short_length = self._unpack_head(self._encoded, offset)
        tag = group << 16 | element
        if is_implicit or tag in _DELIMITERS:
            (length,) = self._unpack_long(self._encoded, offset + 4)
            return tag, offset + 8, length, is_implicit
        if vr not in _LONG_VRS:
            return tag, offset + 8, short_length, False
        if offset + 12 > len(self._encoded):
            return None
        (length,) = self._unpack_long(self._encoded, offset + 8)
        # What is unknown and of undefined length is a sequence of implicit VR (PS3.5 6.2.2).
        return tag, offset + 12, length, vr == b"UN"

    def _end_of_sequence(self, offset: int, *, is_implicit: bool) -> int:
        """Return where a sequence of undefined length ends that begins here; -1 where it does not."""
        # Encoding of what is open: sequences, and items of undefined length in them.
        open_encodings = [is_implicit]
        while open_encodings:
            element = self._read(offset, is_implicit=open_encodings[-1])
            if element is None:
                return -1
            tag, start, length, content_is_implicit = element
            offset = start
            if tag in (_ITEM_END, _SEQUENCE_END):
                open_encodings.pop()
            elif length == _UNDEFINED_LENGTH:
                open_encodings.append(open_encodings[-1] if tag == _ITEM else content_is_implicit)
            else:
                offset += length
        return offset
