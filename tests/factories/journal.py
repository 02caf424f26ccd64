"""What lies in the journal of a spool, read without the node's own code: by the layout at the head of `spool/journal/record.py`."""

from __future__ import annotations

import hashlib
import io
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from pydicom import dcmread

_BLOCK_BYTES = 4096
_PREFIX_BYTES = 108


def journaled_uids(spool: Path) -> set[str]:
    """Return the SOP Instance UIDs of the whole records of a spool's journal."""
    return {
        str(dcmread(io.BytesIO(data), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
        for path in sorted((spool / "journal").glob("*.segment"))
        for data in _records(path.read_bytes())
    }


def left_half(spool: Path, wait_s: float = 30.0) -> set[Path]:
    """Return the half files of a spool that stay, whoever writes meanwhile.

    One in the making has a name of its own at every try, and goes: the filer of a full disk makes and removes
    one again and again.
    """
    end = time.monotonic() + wait_s
    left = set(spool.rglob("*.part"))
    while left and time.monotonic() < end:
        time.sleep(0.01)
        left &= set(spool.rglob("*.part"))
    return left


def _records(segment: bytes) -> Iterator[bytes]:
    generation = segment[8:24]
    for start in range(_BLOCK_BYTES, len(segment), _BLOCK_BYTES):
        if segment[start : start + 24] != b"DNRECD01" + generation:
            continue
        head_bytes, dataset_bytes = struct.unpack_from("<LQ", segment, start + 24)
        head_at = start + _PREFIX_BYTES
        dataset = segment[head_at + head_bytes : head_at + head_bytes + dataset_bytes]
        if hashlib.sha256(dataset).digest() == segment[start + 44 : start + 76]:
            yield segment[head_at : head_at + head_bytes] + dataset
