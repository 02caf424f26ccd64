"""What a segment of the journal holds, byte by byte: one header, then records at multiples of 4 KiB.

    segment header   magic, generation, SHA-256 of the two; within one sector of 512 bytes
    record           magic, generation, length of the head, length of the dataset, time of reception, SHA-256
    of the dataset, SHA-256 of all of this and of the head; the Part 10 head; the dataset; zeros

Rules for this file:
1. A record counts only when every byte of it is as it was written, and when it is of its segment's
   generation.
2. A generation is drawn at random: no sender can put a record into a dataset that would be read as one.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK_BYTES = 4096
"""Where records begin: at multiples of this. What is written are whole pages, so that none is read first."""

_GENERATION_BYTES = 16
_SEGMENT_MAGIC, _RECORD_MAGIC = b"DNSEGM01", b"DNRECD01"
_SEGMENT = struct.Struct(f"<8s{_GENERATION_BYTES}s")
_RECORD = struct.Struct(f"<8s{_GENERATION_BYTES}sLQd32s")
_DIGEST_BYTES = 32

PREFIX_BYTES = _RECORD.size + _DIGEST_BYTES
"""Bytes of a record before its Part 10 head."""


@dataclass(frozen=True)
class Record:
    """One record that was read back whole. `received_at` is in seconds since the epoch."""

    head: bytes
    dataset: bytes
    sha256: str
    received_at: float


def new_generation() -> bytes:
    """Return a generation that no segment has had."""
    return os.urandom(_GENERATION_BYTES)


def record_bytes(head_bytes: int, dataset_bytes: int) -> int:
    """Return how many bytes of a segment a record takes: whole blocks."""
    return -(-(PREFIX_BYTES + head_bytes + dataset_bytes) // BLOCK_BYTES) * BLOCK_BYTES


def encode_segment_header(generation: bytes) -> bytes:
    """Return the first block of a segment."""
    fixed = _SEGMENT.pack(_SEGMENT_MAGIC, generation)
    return (fixed + hashlib.sha256(fixed).digest()).ljust(BLOCK_BYTES, b"\0")


def decode_segment_header(block: bytes) -> bytes | None:
    """Return the generation that a segment with this first block has; None when it is no such block."""
    fixed, digest = block[: _SEGMENT.size], block[_SEGMENT.size : _SEGMENT.size + _DIGEST_BYTES]
    if len(digest) < _DIGEST_BYTES or hashlib.sha256(fixed).digest() != digest:
        return None
    magic, generation = _SEGMENT.unpack(fixed)
    return bytes(generation) if magic == _SEGMENT_MAGIC else None


def encode_record(
    generation: bytes, head: bytes, dataset: bytes | bytearray, sha256: str, received_at: float
) -> list[bytes | bytearray]:
    """Return the buffers of a record, one after the other; together whole blocks.

    `sha256` is the hex digest of the dataset.
    """
    fixed = _RECORD.pack(
        _RECORD_MAGIC, generation, len(head), len(dataset), received_at, bytes.fromhex(sha256)
    )
    prefix = b"".join((fixed, hashlib.sha256(fixed + head).digest(), head))
    filled = len(prefix) + len(dataset)
    return [prefix, dataset, b"\0" * (record_bytes(len(head), len(dataset)) - filled)]


def read_records(segment: memoryview, generation: bytes) -> Iterator[Record]:
    """Yield the whole records of a generation in a segment, in their order.

    Behind one that is torn the search goes on at the next block: an acknowledged record may lie behind one
    that never was, as two were written at the same time.
    """
    mark = _RECORD_MAGIC + generation
    offset = BLOCK_BYTES
    while offset + PREFIX_BYTES <= len(segment):
        record = _decode(segment, offset) if segment[offset : offset + len(mark)] == mark else None
        if record is None:
            offset += BLOCK_BYTES
            continue
        yield record
        offset += record_bytes(len(record.head), len(record.dataset))


def _decode(segment: memoryview, offset: int) -> Record | None:
    """Return the record at an offset; None where not every byte is as it was written."""
    fixed = bytes(segment[offset : offset + _RECORD.size])
    _magic, _generation, head_bytes, dataset_bytes, received_at, dataset_digest = _RECORD.unpack(fixed)
    head_at = offset + PREFIX_BYTES
    dataset_at = head_at + head_bytes
    if dataset_at + dataset_bytes > len(segment):
        return None
    head = bytes(segment[head_at:dataset_at])
    if hashlib.sha256(fixed + head).digest() != segment[offset + _RECORD.size : head_at]:
        return None
    dataset = bytes(segment[dataset_at : dataset_at + dataset_bytes])
    if hashlib.sha256(dataset).digest() != dataset_digest:
        return None
    return Record(head, dataset, dataset_digest.hex(), received_at)
