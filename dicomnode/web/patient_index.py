"""Patient IDs and accession numbers of all studies, in the memory of the pages' process alone.

The ledger holds no patient data, so a thread reads a header of each study once, the newest first. A search
then looks up and reads only what came since. When the process ends, all of it is forgotten.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

from dicomnode.errors import RetryLater
from dicomnode.ledger.ledger import Ledger
from dicomnode.ledger.listing import Cursor
from dicomnode.ledger.shown import StudyLine
from dicomnode.web.patients import read_person

log = structlog.get_logger()

_BATCH = 200
_PAUSE_S = 5.0
_ROUNDS_UNTIL_FORGOTTEN = 720
# A search does not wait for more than these; the thread reads the rest.
_READ_IN_SEARCH = 2000
# A hospital of this size has another search; the memory of this one stays below 100 MB.
_MOST_STUDIES = 300_000
_MOST_SHOWN = 200


@dataclass(frozen=True)
class Searched:
    """The newest studies that a search found, how many match, and among how many.

    `is_complete` says that these were all.
    """

    lines: tuple[StudyLine, ...]
    matches: int
    looked_at: int
    is_complete: bool


class PatientIndex:
    """Finds studies by patient ID and accession number. Thread-safe.

    Parameters
    ----------
    spool
        Folder that the ledger's paths are below.
    """

    def __init__(self, ledger: Ledger, spool: Path) -> None:
        self._ledger, self._spool = ledger, spool
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        # UID -> when its last image came, patient ID, accession number, both for comparison.
        self._numbers: dict[str, tuple[float, str, str]] = {}
        self._oldest: Cursor | None = None
        self._is_complete = False

    def start(self) -> None:
        """Begin to read the headers of all studies."""
        self._thread = threading.Thread(target=self._work, name="patients", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)

    def search(self, patient_id: str, accession: str) -> Searched:
        """Return the studies with this patient ID and accession number; empty: any.

        Upper and lower case are alike.
        """
        with self._lock:
            self._read_newest()
            self._read_older(_READ_IN_SEARCH)
            typed = (patient_id.casefold(), accession.casefold())
            matching = [
                (received_at, uid)
                for uid, (received_at, *numbers) in self._numbers.items()
                if all(not text or text == number for text, number in zip(typed, numbers, strict=True))
            ]
            looked_at, is_complete = len(self._numbers), self._is_complete
        newest = [uid for _, uid in sorted(matching, reverse=True)[:_MOST_SHOWN]]
        lines = self._ledger.listing.lines(newest) if newest else ()
        # Those that were removed since they were read are not there any more.
        matches = len(matching) - len(newest) + len(lines)
        return Searched(lines, matches, looked_at, is_complete)

    def _work(self) -> None:
        rounds = 0
        while not self._stop.is_set():
            try:
                with self._lock:
                    count = self._read_older(_BATCH)
                if not count:
                    if rounds % _ROUNDS_UNTIL_FORGOTTEN == 0:
                        self._forget_removed()
                    rounds += 1
                    with self._lock:
                        self._read_newest()
            except RetryLater:
                count = 0
            except Exception as problem:  # noqa: BLE001  a search without it is slower, and says so
                log.error("patients_not_read", error=type(problem).__name__)  # noqa: TRY400
                count = 0
            # Pages and the node go first.
            self._stop.wait(_PAUSE_S if not count else 0.05)

    def _read_newest(self) -> None:
        """Read studies that came, or got images, since they were read.

        It goes from the newest on, to a batch that is known in part.
        """
        after: Cursor | None = None
        is_first = self._oldest is None
        while batch := self._ledger.listing.cursors(_BATCH, after):
            count = self._read(batch)
            after = batch[-1]
            if is_first:
                self._oldest = after
            if is_first or count < len(batch):
                return

    def _read_older(self, limit: int) -> int:
        """Go on where the oldest study that was read is; return how many were read."""
        total = 0
        while total < limit and not self._is_complete and len(self._numbers) < _MOST_STUDIES:
            batch = self._ledger.listing.cursors(_BATCH, self._oldest)
            total += self._read(batch)
            if batch:
                self._oldest = batch[-1]
            self._is_complete = len(batch) < _BATCH
        return total

    def _read(self, batch: tuple[Cursor, ...]) -> int:
        """Read a header of each study that is not known as it is; return how many were."""
        count = 0
        for cursor in batch:
            uid, received_at = cursor.StudyInstanceUID, cursor.last_received_at
            if uid in self._numbers and self._numbers[uid][0] == received_at:
                continue
            person = read_person(self._ledger, self._spool, uid)
            self._numbers[uid] = (received_at, person.PatientID.casefold(), person.AccessionNumber.casefold())
            count += 1
        return count

    def _forget_removed(self) -> None:
        """Forget the numbers of studies that the node has removed."""
        with self._lock:
            uids = list(self._numbers)
        for start in range(0, len(uids), _BATCH):
            batch = uids[start : start + _BATCH]
            removed = set(batch) - self._ledger.listing.present(batch)
            if removed:
                with self._lock:
                    for uid in removed:
                        self._numbers.pop(uid, None)
            if self._stop.wait(0.01):
                return
