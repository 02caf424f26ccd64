"""Makes files of what is acknowledged and lists them in the ledger, behind the back of the senders.

Rules for this file:
1. An instance is listed only when its file can be read: all that comes after the ledger knows nothing of a
   journal.
2. What cannot be filed or listed stays in its segment and is tried again; meanwhile nothing more is
   acknowledged.
3. A segment is recycled only when its instances are files and the disk has said that it holds all of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

import structlog

from dicomnode.errors import OutOfResources, RetryLater
from dicomnode.records import AddOutcome, ReceivedInstance
from dicomnode.spool.journal.backlog import Backlog
from dicomnode.spool.journal.disk import FileSystem
from dicomnode.spool.journal.pool import SegmentPool
from dicomnode.spool.journal.segment import Acknowledged, Segment
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.recover import set_aside
from dicomnode.spool.writer import dataset_bytes, write_behind, write_durably

log = structlog.get_logger()

ListInstances = Callable[[Sequence[ReceivedInstance]], Sequence[AddOutcome | Exception]]

_TRIES = 3
_USUAL_BYTES = 2**20


class Filer:
    """A thread that makes files of acknowledged instances, lists them, and recycles segments.

    Parameters
    ----------
    layout
        Where files go.
    backlog
        What is acknowledged.
    pool
        The segments.
    list_instances
        Lists instances in the ledger, in one transaction; may raise `RetryLater`.
    note_listed
        Told when something was listed.
    """

    def __init__(
        self,
        layout: SpoolLayout,
        backlog: Backlog,
        pool: SegmentPool,
        list_instances: ListInstances,
        note_listed: Callable[[], None],
    ) -> None:
        self._layout, self._backlog, self._pool = layout, backlog, pool
        self._list_instances, self._note_listed = list_instances, note_listed
        # Before anything is written that it answers for.
        self._disk = FileSystem(layout.root)
        self._buffer = bytearray(_USUAL_BYTES)
        self._thread = threading.Thread(target=self._run, name="filer", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """File and list what there is and end; what cannot be stays in the journal for the next start."""
        self._backlog.stop()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._backlog.is_over:
            batch = self._backlog.next_batch(is_idle=self._pool.is_idle)
            try:
                if batch:
                    self._file(batch)
                if not self._backlog.is_stopping:
                    self._pool.make_spare()
                    self._pool.seal()
                    self._recycle(self._pool.take_filed())
                self._backlog.note_failure(None)
            except RetryLater as fault:
                self._backlog.note_failure(fault)
            except OSError as problem:
                self._backlog.note_failure(
                    OutOfResources(f"the spool cannot be written: {problem.strerror or problem}")
                )
            except Exception as bug:
                # What waits is safe in the journal; the next round tries again, as would the next start.
                log.exception("journal_round_failed", error=type(bug).__name__)
                self._backlog.note_failure(RetryLater("what was acknowledged cannot be listed"))
        self._end()

    def _end(self) -> None:
        try:
            self._pool.seal(everything=True)
            self._recycle(self._pool.take_filed(everything=True))
        except OSError as problem:
            log.warning("journal_not_emptied", reason=problem.strerror or str(problem))
        self._pool.close()
        self._disk.close()

    def _file(self, batch: Sequence[Acknowledged]) -> None:
        """Make files of a batch, list them, and take them out of the queue."""
        filed = [entry for entry in batch if self._make_file(entry)]
        unlisted: Sequence[Acknowledged] = filed
        for _ in range(_TRIES):
            if not unlisted:
                break
            outcomes = self._list_instances([entry.instance for entry in unlisted])
            for entry, outcome in zip(unlisted, outcomes, strict=True):
                self._judge(entry.instance, outcome)
            # Retention may have removed, in between, a file that was there from an earlier transfer.
            unlisted = [
                entry
                for entry, outcome in zip(unlisted, outcomes, strict=True)
                if not isinstance(outcome, Exception)
                and not os.path.lexists(self._path(entry))
                and self._make_file(entry)
            ]
        self._pool.note_filed(filed)
        self._backlog.remove(len(batch))
        self._note_listed()

    def _path(self, entry: Acknowledged) -> str:
        return f"{self._layout.root}/{entry.instance.path}"

    def _make_file(self, entry: Acknowledged) -> bool:
        """Write the file of an instance if it is not there; False when its record cannot be read.

        `OSError` when the file cannot be written.
        """
        path = self._path(entry)
        if entry.segment is None or dataset_bytes(path) == entry.instance.size_bytes:
            return True
        try:
            data = self._read(entry, entry.segment)
        except OSError as problem:
            # Its segment is not written again, and read anew at the next start.
            log.error(  # noqa: TRY400  a traceback says no more
                "journal_record_not_readable",
                SOPInstanceUID=entry.instance.SOPInstanceUID,
                segment=entry.segment.path.name,
                reason=problem.strerror or str(problem),
                advice="see to the disk, and start again",
            )
            return False
        write_behind(path, [data], modified_at=entry.instance.received_at)
        return True

    def _read(self, entry: Acknowledged, segment: Segment) -> memoryview:
        """Return what is to be in an instance's file; valid until the next call."""
        file_bytes = entry.head_bytes + entry.instance.size_bytes
        buffer = self._buffer if file_bytes <= len(self._buffer) else bytearray(file_bytes)
        view = memoryview(buffer)[:file_bytes]
        segment.read_into(entry.offset, view)
        return view

    def _judge(self, instance: ReceivedInstance, outcome: AddOutcome | Exception) -> None:
        if isinstance(outcome, Exception):
            set_aside(self._layout, instance.path, f"the ledger cannot hold it ({type(outcome).__name__})")
        elif outcome == "conflict":
            log.warning(
                "other_bytes_for_same_uid", SOPInstanceUID=instance.SOPInstanceUID, path=instance.path
            )

    def _recycle(self, segments: Sequence[Segment]) -> None:
        """Give segments new generations, once the disk holds the files of all that was in them."""
        if not segments:
            return
        try:
            if not self._disk.sync():
                # What the kernel could not write it has dropped: the files are written anew.
                log.error("journal_files_written_again", segments=len(segments))
                for segment in segments:
                    self._write_again(segment)
        except OSError:
            self._pool.give_back(segments)
            raise
        for segment in segments:
            self._pool.recycle(segment)

    def _write_again(self, segment: Segment) -> None:
        for entry in segment.filed:
            path = self._layout.root / entry.instance.path
            if path.exists():
                write_durably(
                    path,
                    [self._read(entry, segment)],
                    keep_existing=False,
                    modified_at=entry.instance.received_at,
                )
