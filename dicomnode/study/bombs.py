"""Files made to eat memory or time: refused before they are parsed.

A file may be small and its contents huge (deflate), or large and of nothing but empty items: 8 bytes each on
disk, a kilobyte and half a millisecond each once read. Whoever reads headers reads them for every sender, so
one such file would stop them all.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from dicomnode.errors import UnreadableInstance

# An enhanced MR image has some 25 items a frame; so many are 10,000 frames.
MOST_ITEMS = 300_000
# Two reads an element.
MOST_READS = 4_000_000
LARGEST_INFLATED_BYTES = 64 * 2**20

_CHUNK_BYTES = 2**20
_ITEM_BYTES = 8
_DEFLATED = b"1.2.840.10008.1.2.1.99"
# An item's tag (FFFE,E000) in both byte orders, PS3.5 7.5.
_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")


def refuse_bombs(file: BinaryIO) -> None:
    """Raise `UnreadableInstance` when a file holds more items, or inflates to more bytes, than any image.

    The file stays at its start.
    """
    items, tail = 0, b""
    try:
        is_deflated = _is_deflated(file)
        if not is_deflated and file.seek(0, os.SEEK_END) <= _ITEM_BYTES * MOST_ITEMS:
            # So many do not fit in.
            return
        for chunk in _inflated(file) if is_deflated else _chunks(file):
            # A tag may lie across two chunks; three bytes of the one before can hold no whole one.
            searched = tail + chunk
            items += sum(searched.count(tag) for tag in _ITEM_TAGS)
            tail = searched[-3:]
            if items > MOST_ITEMS:
                raise UnreadableInstance(
                    f"too-many-items: the file has more than {MOST_ITEMS} sequence items"
                )
    finally:
        file.seek(0)


class CountedFile:
    """A file that refuses to be read in more than `MOST_READS` pieces: pydicom reads an element in two."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._left = file, MOST_READS

    def read(self, count: int = -1) -> bytes:
        """Read as a file does; raise `UnreadableInstance` when it was read too often."""
        self._left -= 1
        if self._left < 0:
            raise UnreadableInstance("too-many-elements: the file has more elements than any image")
        return self._file.read(count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _is_deflated(file: BinaryIO) -> bool:
    """Return whether a file is deflated.

    The file is left behind its file meta information (PS3.10 7.1: group length first).
    """
    start = file.read(144)
    if start[128:136] != b"DICM\x02\0\0\0":
        return False
    return _DEFLATED in file.read(int.from_bytes(start[140:144], "little"))


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _inflated(file: BinaryIO) -> Iterator[bytes]:
    """Give what follows the file meta information, inflated; the file stands there."""
    inflate, inflated_bytes = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while waiting := file.read(_CHUNK_BYTES):
        while waiting and not inflate.eof:
            inflated = inflate.decompress(waiting, _CHUNK_BYTES)
            inflated_bytes += len(inflated)
            if inflated_bytes > LARGEST_INFLATED_BYTES:
                raise UnreadableInstance(
                    f"too-large: the file inflates to more than {LARGEST_INFLATED_BYTES // 2**20} MiB"
                )
            yield inflated
            waiting = inflate.unconsumed_tail
