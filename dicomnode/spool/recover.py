"""What is done at start: the spool is the truth, and the ledger's rows are derived from it again.

Rules for this file:
1. What was acknowledged comes back. Only a file whose bytes no longer fit the hash in its name is set aside,
   or one that the ledger cannot hold.
2. One file never keeps the node from starting.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from dicomnode.errors import RetryLater
from dicomnode.records import AddOutcome, ReceivedInstance
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.part10 import FileMeta, dataset_offset, decode_file_meta
from dicomnode.spool.writer import TEMPORARY_SUFFIX, describe_instance
from dicomnode.uids import is_uid

log = structlog.get_logger()

_SHOWN_PATHS = 20
# A disk whose folders nobody has in memory delivers so many of them in little more than the time of one; with
# more, their connections to the ledger would take the memory.
_READ_AHEAD = 4
_INSTANCE_NAME = re.compile(r"[0-9a-f]{32}-(?P<content>[0-9a-f]{32})\.dcm")


class InstanceLedger(Protocol):
    """What recovery needs of the ledger."""

    def paths_below(self, folder: str) -> Iterable[str]:
        """Return the spool paths of the listed instances in a folder."""

    def count_below(self, folder: str) -> int:
        """Return how many instances are listed in a folder."""

    def add(self, instance: ReceivedInstance) -> AddOutcome:
        """List an instance."""


@dataclass(frozen=True)
class RecoveryReport:
    """What recovery did: counts of files.

    `added` had no row, `removed` were half written (never acknowledged), `set_aside` do not fit their own
    hash, `missing` have a row only, `not_readable` stay as they are for the next start.
    """

    added: int
    removed: int
    set_aside: int
    missing: int
    not_readable: int = 0


def rebuild_ledger(layout: SpoolLayout, instances: InstanceLedger) -> RecoveryReport:
    """Sweep half received files, and list every whole instance that has no row.

    Only for a moment when nobody receives.
    """
    layout.prepare()
    removed, unlisted, missing = 0, list[tuple[int, str]](), list[str]()
    # Folder by folder, and rows one after the other: a spool of a million instances needs no memory for all
    # of their names at once.
    folders = sorted(path for path in layout.incoming.iterdir() if path.is_dir())
    with _reading_ahead(folders, instances):
        for folder in folders:
            present = set(os.listdir(folder))  # noqa: PTH208  a million of them, and no objects for a name
            half = {name for name in present if name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)}
            removed += _remove(folder / name for name in half)
            present -= half
            prefix = f"incoming/{folder.name}/"
            for path in instances.paths_below(f"incoming/{folder.name}"):
                name = path[len(prefix) :]
                if name in present:
                    present.remove(name)
                else:
                    missing.append(path)
            unlisted += [(_modified_at(folder / name), prefix + name) for name in present]
    # As they came: of several versions of one instance the ledger counts the order.
    outcomes = [_list_file(layout, instances, path) for _, path in sorted(unlisted)]
    for path in sorted(missing)[:_SHOWN_PATHS]:
        log.error("file_missing", path=path)
    return RecoveryReport(
        outcomes.count("added"),
        removed,
        outcomes.count("set-aside"),
        len(missing),
        outcomes.count("not-readable"),
    )


@contextmanager
def _reading_ahead(folders: Sequence[Path], instances: InstanceLedger) -> Iterator[None]:
    """Have the disk deliver names and rows, many folders at once, while they are compared one by one.

    Nothing is kept of them. What cannot be read is told of when it is compared.
    """
    with ThreadPoolExecutor(_READ_AHEAD, thread_name_prefix="ahead") as ahead:
        for folder in folders:
            ahead.submit(instances.count_below, f"incoming/{folder.name}")
            ahead.submit(_look_through, folder)
        try:
            yield
        finally:
            ahead.shutdown(cancel_futures=True)


def _look_through(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for _ in entries:
            pass


def read_instance(layout: SpoolLayout, path: str) -> ReceivedInstance | None:
    """Derive the ledger's row from a stored file: its file meta, its bytes, its time.

    The result is None when the file is not whole.

    Raises `OSError` when the file cannot be read.
    """
    file = layout.root / path
    data = file.read_bytes()
    offset = dataset_offset(data[:144])
    meta = decode_file_meta(data[:offset])
    if meta is None or len(data) <= offset:
        return None
    sha256 = hashlib.sha256(memoryview(data)[offset:]).hexdigest()
    if not _fits_name(layout, path, meta, sha256):
        return None
    size_bytes, received_at = len(data) - offset, file.stat().st_mtime
    return describe_instance(
        data[:offset], path=path, sha256=sha256, size_bytes=size_bytes, received_at=received_at
    )


def sweep_half_results(layout: SpoolLayout) -> int:
    """Remove results that were not written to their end.

    Only for a moment when nobody works: `receive` may start while results are written.
    """
    return _remove(layout.results.glob(f"*/*/.*{TEMPORARY_SUFFIX}"))


def _modified_at(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        # Retention may have removed it at this moment; reading it will say so.
        return 0


def _list_file(layout: SpoolLayout, instances: InstanceLedger, path: str) -> str:
    """List one file; return "added", "set-aside" or "not-readable"."""
    try:
        instance = read_instance(layout, path)
    except OSError as problem:
        # What cannot be opened may still be whole: it stays, and the next start looks again. A traceback says
        # no more.
        log.error("file_not_readable", path=path, reason=problem.strerror)  # noqa: TRY400
        return "not-readable"
    if instance is None:
        return set_aside(layout, path, "its bytes no longer fit the hash in its name")
    try:
        instances.add(instance)
    except RetryLater:
        raise
    except Exception as problem:  # noqa: BLE001  whatever is wrong with this row, the others come back
        return set_aside(layout, path, f"the ledger cannot hold it ({type(problem).__name__})")
    return "added"


def set_aside(layout: SpoolLayout, path: str, reason: str) -> str:
    """Move a stored instance that cannot be listed out of the way, and say why; return "set-aside"."""
    log.warning("damaged_file_set_aside", path=path, reason=reason)
    (layout.root / path).replace(layout.aside / Path(path).name)
    return "set-aside"


def _fits_name(layout: SpoolLayout, path: str, meta: FileMeta, sha256: str) -> bool:
    """Return whether a file is what its name says: the same dataset, received under the same UID."""
    name = _INSTANCE_NAME.fullmatch(Path(path).name)
    if name is None or not sha256.startswith(name["content"]):
        return False
    if not is_uid(meta.SOPInstanceUID):
        # 0.4.0 acknowledged such UIDs, and cannot have written every one of them as it came: the hash of the
        # dataset has to do.
        return True
    stored = meta.stored_SOPInstanceUID
    return any(
        layout.instance_path(uid, sha256) == path for uid in (meta.SOPInstanceUID, stored, stored[:-1])
    )


def _remove(files: Iterable[Path]) -> int:
    half = list(files)
    for path in half:
        path.unlink(missing_ok=True)
    return len(half)
