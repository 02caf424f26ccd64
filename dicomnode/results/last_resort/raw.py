"""Raw top-level elements of a stored instance, straight from its bytes (PS3.5 7.1).

Rules for this file:
1. It decodes nothing and judges nothing: a value is the bytes that came.
2. It never raises on bytes: where they make no sense, it stops with what it has read so far.
3. It imports the standard library only, so that no fault of a DICOM library reaches it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

READ_BYTES = 64 * 2**20
"""As much of a file as is read: the identity stands at its beginning."""
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_TRANSFER_SYNTAX = 0x00020010
# PS3.5 7.1.2: these have a length of 32 bits, the others of 16.
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_HEADER, _SHORT_HEADER = 12, 8


@dataclass(frozen=True)
class _Element:
    """Where one element lies.

    Its tag and VR (empty where none is written), its value's first byte and length.
    """

    tag: int
    vr: bytes
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True)
class _Encoding:
    """How the elements are written: byte order, and whether each has its VR."""

    little: bool
    explicit: bool

    def integer(self, data: bytes, start: int, size: int) -> int:
        """Return an unsigned integer; `struct.error` where the bytes end before it."""
        if start + size > len(data):
            raise struct.error("the bytes end")
        return int.from_bytes(data[start : start + size], "little" if self.little else "big")


def read_raw_elements(path: Path, tags: Collection[int]) -> dict[int, list[bytes]]:
    """Return the values of these top-level elements as bytes, padding and all.

    An element that stands there twice has two.

    Parameters
    ----------
    path
        A DICOM file (PS3.10), or a dataset without preamble and file meta information. What cannot be read
        has no elements.
    tags
        As numbers: 0x00100020 is (0010,0020).
    """
    try:
        with path.open("rb") as file:
            data = file.read(READ_BYTES)
    except OSError:
        return {}
    return parse_raw_elements(data, tags)


def parse_raw_elements(data: bytes, tags: Collection[int]) -> dict[int, list[bytes]]:
    """Return what `read_raw_elements` does, of bytes."""
    values: dict[int, list[bytes]] = {}
    try:
        dataset = _after_file_meta(data)
        for element in _walk(dataset, 0, _recognise(dataset)):
            # A value that the end of the bytes cuts off is no value: a shortened Patient ID is another
            # patient's.
            if element.tag in tags and element.end <= len(dataset):
                values.setdefault(element.tag, []).append(dataset[element.start : element.end])
    except (struct.error, zlib.error):
        # The bytes end, or make no sense from here on.
        pass
    return values


def _after_file_meta(data: bytes) -> bytes:
    """Return the dataset without preamble and file meta information, inflated where it is deflated."""
    if data[128:132] != b"DICM":
        return data
    position, syntax = 132, b""
    meta = _Encoding(little=True, explicit=True)
    while position + _SHORT_HEADER <= len(data) and meta.integer(data, position, 2) == 0x0002:
        element = _read_element(data, position, meta)
        if element.tag == _TRANSFER_SYNTAX:
            syntax = data[element.start : element.end].rstrip(b"\0 ")
        position = element.end
    if syntax == _DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[position:], READ_BYTES)
    return data[position:]


def _recognise(data: bytes) -> _Encoding:
    """Tell the encoding by the first element itself: what the file meta information says of it may be wrong.

    A dataset begins with a low group: read in the wrong byte order, 0x0008 is 0x0800.
    """
    little = int.from_bytes(data[:2], "little") <= int.from_bytes(data[:2], "big")
    return _Encoding(
        little, data[4:6] in _LONG_VRS | _SHORT_VRS or (data[4:6].isalpha() and data[4:6].isupper())
    )


def _walk(data: bytes, position: int, encoding: _Encoding) -> Iterator[_Element]:
    """Give the top-level elements one after the other; what lies in sequences is passed over."""
    while position + _SHORT_HEADER <= len(data):
        element = _read_element(data, position, encoding)
        if element.length == _UNDEFINED:
            position = _skip_sequence(data, element, encoding)
        else:
            yield element
            position = element.end


def _read_element(data: bytes, position: int, encoding: _Encoding) -> _Element:
    tag = encoding.integer(data, position, 2) << 16 | encoding.integer(data, position + 2, 2)
    if not encoding.explicit or tag >> 16 == 0xFFFE:
        return _Element(tag, b"", position + _SHORT_HEADER, encoding.integer(data, position + 4, 4))
    vr = bytes(data[position + 4 : position + 6])
    short = _Element(tag, vr, position + _SHORT_HEADER, encoding.integer(data, position + 6, 2))
    if vr in _SHORT_VRS:
        return short
    written = _Element(tag, vr, position + _LONG_HEADER, encoding.integer(data, position + 8, 4))
    if vr in _LONG_VRS or not _leads_on(data, short, encoding):
        return written
    # A VR that the standard does not know: the length is the one after which the next element follows.
    return short


def _leads_on(data: bytes, element: _Element, encoding: _Encoding) -> bool:
    """Return whether an element that is not lower follows, or the end of the data."""
    if element.end >= len(data):
        return element.end == len(data)
    following = encoding.integer(data, element.end, 2) << 16 | encoding.integer(data, element.end + 2, 2)
    return following >= element.tag


def _skip_sequence(data: bytes, sequence: _Element, encoding: _Encoding) -> int:
    """Return where a sequence of undefined length ends; however deep it is, this is one loop."""
    # UN of undefined length holds implicit VR little endian (PS3.5 6.2.2).
    inner = _Encoding(little=True, explicit=False) if sequence.vr == b"UN" else encoding
    open_encodings, position = [inner], sequence.start
    while open_encodings:
        element = _read_element(data, position, open_encodings[-1])
        if element.tag in (_ITEM_END, _SEQUENCE_END):
            open_encodings.pop()
            position = element.start
        elif element.length == _UNDEFINED:
            deeper = _Encoding(little=True, explicit=False) if element.vr == b"UN" else open_encodings[-1]
            open_encodings.append(deeper)
            position = element.start
        else:
            position = element.end
    return position
