"""A stored instance opened for reading.

File Meta Information elements that a sender left in its dataset are taken away.

Rules for this file:
1. A dataset is bytes here; nothing below decodes one.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from dicomnode.spool.part10 import HEAD_BYTES, dataset_offset

_IMPLICIT = b"1.2.840.10008.1.2"
_BIG_ENDIAN = b"1.2.840.10008.1.2.2"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_GROUP_2 = (b"\x02\x00", b"\x00\x02")
# Value representations with a length of 4 bytes after 2 reserved ones (PS3.5 7.1.2).
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})


def open_instance(path: Path) -> BinaryIO:
    """Open a stored instance for reading, without elements of group 0002 at the start of its dataset.

    Group 0002 belongs into File Meta Information alone (PS3.5 7.1). Where a sender left some in the dataset,
    pydicom would read them as File Meta Information and take their Transfer Syntax UID for the one that was
    negotiated.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    file = path.open("rb")
    try:
        head = file.read(HEAD_BYTES)
        offset = dataset_offset(head)
        meta = head + file.read(max(0, offset - len(head)))
        start = file.read(2)
        file.seek(0)
        syntax = _transfer_syntax(meta[:offset])
        if not offset or not syntax or (start not in _GROUP_2 and syntax != _DEFLATED):
            return file
        file.seek(offset)
        dataset = file.read()
        file.seek(0)
        cleaned = _without_group_2(dataset, syntax)
    except BaseException:
        file.close()
        raise
    if cleaned is dataset:
        return file
    file.close()
    return io.BytesIO(meta[:offset] + cleaned)


def _transfer_syntax(meta: bytes) -> bytes:
    """Return the value of (0002,0010) in whole File Meta Information, b"" where it is not there."""
    position = HEAD_BYTES
    while position + 8 <= len(meta):
        tag, vr = meta[position : position + 4], meta[position + 4 : position + 6]
        is_long = vr in _LONG
        start = position + (12 if is_long else 8)
        (length,) = struct.unpack_from("<L" if is_long else "<H", meta, start - (4 if is_long else 2))
        if tag == b"\x02\x00\x10\x00":
            return meta[start : start + length].strip(b"\0 ")
        position = start + length
    return b""


def _without_group_2(dataset: bytes, syntax: bytes) -> bytes:
    """Return an encoded dataset without the elements of group 0002 that it starts with.

    The same object where there are none.
    """
    if syntax == _DEFLATED:
        try:
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
            if unpacker.decompress(dataset, 2) != _GROUP_2[0]:
                return dataset
            cleaned = _without_group_2(zlib.decompress(dataset, -zlib.MAX_WBITS), b"")
        except zlib.error:
            return dataset
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return packer.compress(cleaned) + packer.flush()
    order = ">" if syntax == _BIG_ENDIAN else "<"
    position = 0
    while position + 12 <= len(dataset) and struct.unpack_from(f"{order}H", dataset, position)[0] == 2:
        vr = dataset[position + 4 : position + 6]
        is_long = vr in _LONG
        if syntax == _IMPLICIT or not vr.isalpha():
            (length,), header = struct.unpack_from(f"{order}L", dataset, position + 4), 8
        else:
            (length,), header = (
                struct.unpack_from(
                    f"{order}{'L' if is_long else 'H'}", dataset, position + (8 if is_long else 6)
                ),
                12 if is_long else 8,
            )
        if position + header + length > len(dataset):
            return dataset
        position += header + length
    return dataset[position:] if position else dataset
