"""`JournalSpool`: received instances made safe by one append to a journal and one shared sync.

    write -> record in a segment -> sync that began after it -> 0x0000
                  ... soon after, behind the senders' back: file -> row -> segment recycled

Rules for this file:
1. `write` returns only when a sync that began after the record was written has returned, or when the instance
   is a durable file.
2. Whatever goes wrong the caller hears `OutOfResources` or `RetryLater`, and nothing that was acknowledged is
   touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Unpack

from dicomnode.errors import OutOfResources, StartError
from dicomnode.records import Arrival, ReceivedInstance
from dicomnode.spool.journal import pool
from dicomnode.spool.journal.backlog import Backlog
from dicomnode.spool.journal.filer import Filer, ListInstances
from dicomnode.spool.journal.pool import SegmentPool
from dicomnode.spool.journal.record import PREFIX_BYTES, encode_record, record_bytes
from dicomnode.spool.journal.replay import Replayed
from dicomnode.spool.journal.segment import Acknowledged, Segment
from dicomnode.spool.layout import make_durable_folders
from dicomnode.spool.writer import SpoolWriter

_FAREWELL_S = 30.0


class JournalSpool:
    """Makes received instances safe, and has them filed and listed. Thread-safe.

    Parameters
    ----------
    files
        Takes, as a file at once, what the journal cannot.
    journal_bytes
        The journal's largest size.
    replayed
        What was found of it at the start.
    segment_bytes
        Size of a segment; 64 MiB where nothing is said.

    Raises
    ------
    StartError
        The journal's folder cannot be made.
    """

    def __init__(
        self,
        files: SpoolWriter,
        journal_bytes: int,
        replayed: Replayed,
        segment_bytes: int | None = None,
    ) -> None:
        self._files = files
        self._backlog = Backlog(time.monotonic)
        try:
            make_durable_folders(files.layout.journal)
        except OSError as problem:
            raise StartError(
                f"the journal {files.layout.journal} cannot be made: {problem.strerror}"
            ) from problem
        segment_bytes = segment_bytes or pool.SEGMENT_BYTES
        limit = max(1, journal_bytes // segment_bytes)
        self._pool = SegmentPool(files.layout.journal, limit, segment_bytes, files.space, time.monotonic)
        self._pool.adopt(replayed.empty, replayed.full)
        self._filer: Filer | None = None

    def start(self, list_instances: ListInstances, note_listed: Callable[[], None] = lambda: None) -> None:
        """Begin to make files and to list them.

        `list_instances` lists instances in the ledger, in one transaction, and may raise `RetryLater`;
        `note_listed` is told when something was listed.
        """
        self._filer = Filer(self._files.layout, self._backlog, self._pool, list_instances, note_listed)

    def set_limits(self, minimum_free_bytes: int, resume_free_bytes: int) -> None:
        """Take other limits of free space from now on."""
        self._files.set_limits(minimum_free_bytes, resume_free_bytes)

    def write(self, encoded_dataset: bytes | bytearray, **arrival: Unpack[Arrival]) -> ReceivedInstance:
        """Store a dataset as received; when this returns it survives a power cut, and will be listed soon.

        Raises
        ------
        NotUnderstood
            A UID that is none. Nothing is written.
        OutOfResources
            Too little free space, or the disk refused.
        RetryLater
            The ledger has been away for so long that nothing more is acknowledged.
        """
        self._backlog.require_pace()
        instance, head = self._files.describe(encoded_dataset, **arrival)
        reserved = self._reserve(len(head), len(encoded_dataset))
        if reserved is None:
            self._files.keep_as_file(instance, head, encoded_dataset)
            self._backlog.add(Acknowledged(instance))
            return instance
        segment, offset = reserved
        self._append(segment, offset, instance, head, encoded_dataset)
        self._backlog.add(Acknowledged(instance, segment, offset + PREFIX_BYTES, len(head)))
        return instance

    def holds(self, instance: ReceivedInstance) -> bool:
        """Return whether an instance is safe: in the journal, to be made a file, or as a file."""
        return self._backlog.holds(instance.path) or self._files.holds(instance)

    def holds_whole(self, instance: ReceivedInstance) -> bool:
        """Return whether an instance's file is there, can be read, and is as long as what was received."""
        return self._files.holds_whole(instance)

    def settle(self) -> None:
        """Return when all that was written before is filed and listed.

        `RetryLater` when that takes too long.
        """
        self._backlog.settle()

    def close(self) -> bool:
        """File and list what there is; return whether nothing is left.

        After that the journal is empty, unless the ledger or the disk is away.
        """
        if self._filer is not None:
            self._filer.close(_FAREWELL_S)
        return self._backlog.is_empty

    def _reserve(self, head_bytes: int, dataset_bytes: int) -> tuple[Segment, int] | None:
        """Return room for a record; None when the journal has none.

        `OutOfResources` when there would be no room for its file.
        """
        try:
            self._files.space.require(self._backlog.unfiled_bytes + dataset_bytes)
        except OSError as problem:
            raise OutOfResources(f"the spool cannot be written: {problem.strerror}") from problem
        return self._pool.reserve(record_bytes(head_bytes, dataset_bytes))

    def _append(
        self,
        segment: Segment,
        offset: int,
        instance: ReceivedInstance,
        head: bytes,
        encoded_dataset: bytes | bytearray,
    ) -> None:
        """Write a record and wait for a sync that began after that.

        `OutOfResources` when one of them fails.
        """
        is_safe = False
        try:
            segment.write(
                offset,
                encode_record(
                    segment.generation, head, encoded_dataset, instance.sha256, instance.received_at
                ),
            )
            segment.commit()
            is_safe = True
        except OSError as problem:
            raise OutOfResources(f"the journal cannot be written: {problem.strerror}") from problem
        finally:
            if not is_safe:
                self._pool.refuse(segment)
