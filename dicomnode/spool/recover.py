"""What is done at start: the spool is the truth, and the ledger's rows are derived from it again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
from pydicom.filereader import read_file_meta_info

from dicomnode.records import AddOutcome, ReceivedInstance
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.part10 import dataset_offset
from dicomnode.spool.writer import TEMPORARY_SUFFIX

log = structlog.get_logger()

_SHOWN_PATHS = 20


class InstanceLedger(Protocol):
    """What recovery needs of the ledger."""

    def paths(self) -> set[str]:
        """Return the spool paths of every listed instance."""

    def add(self, instance: ReceivedInstance) -> AddOutcome:
        """List an instance."""


@dataclass(frozen=True)
class RecoveryReport:
    """What was found: counts of files.

    `added` had no row, `removed` were half written (never acknowledged), `set_aside` do not fit their own hash, `missing` have a row only.
    """

    added: int
    removed: int
    set_aside: int
    missing: int


def rebuild_ledger(layout: SpoolLayout, instances: InstanceLedger) -> RecoveryReport:
    """Sweep half received files, and list every whole instance that the ledger does not know. Only for a moment when nobody receives."""
    layout.prepare()
    removed = _remove(layout.incoming.glob(f"*/.*{TEMPORARY_SUFFIX}"))
    # One listing per folder and no stat per file: a spool of 14 days has some hundred thousand.
    found = {f"incoming/{folder.name}/{path.name}" for folder in layout.incoming.iterdir() if folder.is_dir() for path in folder.iterdir()}
    known = instances.paths()
    added = set_aside = 0
    for path in sorted(found - known):
        try:
            instance = read_instance(layout, path)
        except OSError as problem:
            # What cannot be opened may still be whole: it stays, and the next start looks again.
            log.error("file_not_readable", path=path, reason=problem.strerror)  # noqa: TRY400  a traceback says no more
            continue
        if instance is None:
            log.warning("damaged_file_set_aside", path=path)
            (layout.root / path).replace(layout.aside / Path(path).name)
            set_aside += 1
        else:
            instances.add(instance)
            added += 1
    missing = sorted(known - found)
    for path in missing[:_SHOWN_PATHS]:
        log.error("file_missing", path=path)
    return RecoveryReport(added, removed, set_aside, len(missing))


def read_instance(layout: SpoolLayout, path: str) -> ReceivedInstance | None:
    """Derive the ledger's row from a stored file: its file meta, its bytes, its time. None when it is not whole.

    The peer's address is not in the file: it comes back empty. Raises `OSError` when the file cannot be read.
    """
    file = layout.root / path
    data = file.read_bytes()
    offset = dataset_offset(data[:144])
    if not offset or len(data) <= offset:
        return None
    try:
        meta = read_file_meta_info(file)
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - pydicom may fail in any way on garbage, and one damaged file must not stop the node from starting
        return None
    sha256 = hashlib.sha256(memoryview(data)[offset:]).hexdigest()
    SOPInstanceUID = str(meta.get("MediaStorageSOPInstanceUID", ""))
    if layout.instance_path(SOPInstanceUID, sha256) != path:
        return None
    return ReceivedInstance(
        SOPInstanceUID=SOPInstanceUID,
        SOPClassUID=str(meta.get("MediaStorageSOPClassUID", "")),
        TransferSyntaxUID=str(meta.get("TransferSyntaxUID", "")),
        path=path,
        sha256=sha256,
        size_bytes=len(data) - offset,
        calling_ae=str(meta.get("SourceApplicationEntityTitle", "")),
        peer_host="",
        received_at=file.stat().st_mtime,
    )


def sweep_half_results(layout: SpoolLayout) -> int:
    """Remove results that were not written to their end. Only for a moment when nobody works: `receive` may start while results are written."""
    return _remove(layout.results.glob(f"*/*/.*{TEMPORARY_SUFFIX}"))


def _remove(files: Iterable[Path]) -> int:
    half = list(files)
    for path in half:
        path.unlink(missing_ok=True)
    return len(half)
