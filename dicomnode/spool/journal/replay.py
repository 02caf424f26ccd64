"""What the journal still holds at the start, made files.

After an orderly end it holds nothing. After a power cut it holds what was acknowledged lately, some of it as
files already, and those perhaps half.

Rules for this file:
1. A segment gets a new generation only when each of its records is a file, and the disk has said so.
2. One segment never keeps the node from starting: what cannot be read or written stays as it is.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import structlog

from dicomnode.errors import StartError
from dicomnode.spool.journal.disk import FileSystem
from dicomnode.spool.journal.record import (
    BLOCK_BYTES,
    Record,
    decode_segment_header,
    read_records,
)
from dicomnode.spool.journal.segment import Segment, remove_drafts, remove_segment, renew_segment
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.part10 import decode_file_meta
from dicomnode.spool.recover import read_instance
from dicomnode.spool.writer import write_behind, write_durably

log = structlog.get_logger()


@dataclass(frozen=True)
class Replayed:
    """What was found at the start.

    `records` were made files (or were files already), `empty` segments may be written, `full` ones hold what
    could not be made files.
    """

    records: int
    empty: tuple[Segment, ...]
    full: int


def replay_journal(layout: SpoolLayout) -> Replayed:
    """Make a file of every record of the journal, and give its segments new generations.

    Only for a moment when nobody receives; whatever has no row in the ledger is listed by
    `recover.rebuild_ledger` afterwards. `StartError` when the folders cannot be read or made.
    """
    layout.prepare()
    if not layout.journal.is_dir():
        return Replayed(0, (), 0)
    try:
        remove_drafts(layout.journal)
        disk = FileSystem(layout.root)
    except OSError as problem:
        raise StartError(f"the journal {layout.journal} cannot be read: {problem.strerror}") from problem
    records, empty, full = 0, list[Segment](), 0
    try:
        for path in sorted(layout.journal.glob("*.segment")):
            try:
                count, segment = _replay_segment(layout, disk, path)
            except OSError as problem:
                log.error(  # noqa: TRY400  a traceback says no more
                    "journal_segment_not_read",
                    segment=path.name,
                    reason=problem.strerror or str(problem),
                    advice="it stays as it is: free some space, or see to the disk, and start again",
                )
                full += 1
                continue
            records += count
            empty += [segment] if segment is not None else []
    finally:
        disk.close()
    return Replayed(records, tuple(empty), full)


def _replay_segment(layout: SpoolLayout, disk: FileSystem, path: Path) -> tuple[int, Segment | None]:
    """Return how many records of a segment are files now, and the segment if it may be written again."""
    data = path.read_bytes()
    generation = decode_segment_header(data[:BLOCK_BYTES])
    if generation is None:
        if not any(data[:BLOCK_BYTES]):
            remove_segment(path)
            return 0, None
        raise OSError("its header is damaged")
    filed = [
        path_of_file
        for record in read_records(memoryview(data), generation)
        if (path_of_file := _make_file(layout, record)) is not None
    ]
    if not filed:
        return 0, Segment(path, len(data), generation)
    if not disk.sync():
        for path_of_file in filed:
            _write_again(path_of_file)
    return len(filed), renew_segment(path, len(data))


def _make_file(layout: SpoolLayout, record: Record) -> Path | None:
    """Write the file of a record anew, whatever is there; None for a record that names no instance.

    Where a whole file is there it is that one that is written again: it came first, and the ledger has its
    time.
    """
    meta = decode_file_meta(record.head)
    if meta is None:
        log.error("journal_record_not_understood", sha256=record.sha256)
        return None
    path = layout.instance_path(meta.SOPInstanceUID, record.sha256)
    file, buffers, modified_at = layout.root / path, [record.head, record.dataset], record.received_at
    with contextlib.suppress(OSError):
        if read_instance(layout, path) is not None:
            buffers, modified_at = [file.read_bytes()], file.stat().st_mtime
    write_behind(str(file), buffers, modified_at=modified_at)
    return file


def _write_again(file: Path) -> None:
    """Write a file once more, and wait for the disk to say that it is there."""
    data, modified_at = file.read_bytes(), file.stat().st_mtime
    write_durably(file, (data,), keep_existing=False, modified_at=modified_at)


def remove_segments(segments: tuple[Segment, ...]) -> None:
    """Remove segments that hold nothing: the journal is switched off."""
    for segment in segments:
        try:
            remove_segment(segment.path)
        except OSError as problem:
            log.warning("journal_segment_not_removed", segment=segment.path.name, reason=problem.strerror)
