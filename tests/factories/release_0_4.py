"""The folder of a node of release 0.4.0 that was killed: its ledger, its spool, and work in flight.

Written down from what a node of that release left behind after `kill -9` (2026-11-30): the statements of its
ledger (`ledger_0_4.sql`), the texts in its rows (`release_0_4.json`), the names and first bytes of its files.
Nothing here uses the ledger or the spool of today.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sqlite3
import struct
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian, SegmentationStorage

HERE = Path(__file__).parent
REVISION = "0005"
SCANNER = ("SCANNER", "127.0.0.1")
RESULTS = {"seg": str(SegmentationStorage), "sr": str(ComprehensiveSRStorage)}
PREAMBLE_BYTES = 128
GROUP_LENGTH_END = PREAMBLE_BYTES + 4 + 12


class OldRoot:
    """Writes the root of such a node; each method adds studies as that node had them when it died."""

    def __init__(self, root: Path, archive_ae: str, archive_port: int) -> None:
        self.root, self.spool = root, root / "spool"
        for folder in ("results", "aside", *(f"incoming/{digit}" for digit in "0123456789abcdef")):
            (self.spool / folder).mkdir(parents=True)
        self.ledger = root / "ledger.sqlite3"
        self._killed_at = time.time()
        with closing(sqlite3.connect(self.ledger)) as connection, connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript((HERE / "ledger_0_4.sql").read_text())
            address, offer = f"{archive_ae}@127.0.0.1:{archive_port}", json.dumps(_texts()["offer"])
            times = (self._killed_at, self._killed_at + 3600)
            connection.execute(
                "INSERT INTO offers VALUES ('pacs', ?, ?, ?, ?, '{}')", (address, offer, *times)
            )

    def add_instances(self, files: Iterable[Path], *, indexed: int) -> str:
        """Store instances and list them, so many with headers; return the Study Instance UID."""
        study = ""
        with closing(sqlite3.connect(self.ledger)) as connection, connection:
            for number, file in enumerate(files):
                instance = pydicom.dcmread(file)
                study = str(instance.StudyInstanceUID)
                self._add_instance(connection, instance, self.store(file), is_indexed=number < indexed)
        return study

    def store(self, file: Path) -> tuple[str, str, int]:
        """Write the file of a received instance; return its path, and hash and size of its dataset."""
        content = file.read_bytes()
        (meta_bytes,) = struct.unpack_from("<L", content, GROUP_LENGTH_END - 4)
        dataset, uid = content[GROUP_LENGTH_END + meta_bytes :], str(pydicom.dcmread(file).SOPInstanceUID)
        sha256, name = hashlib.sha256(dataset).hexdigest(), _hash(uid)
        path = f"incoming/{name[0]}/{name}-{sha256[:32]}.dcm"
        (self.spool / path).write_bytes(_encode_meta(uid) + dataset)
        return path, sha256, len(dataset)

    def add_job(self, study: str, state: str, *, deliveries: str = "") -> list[str]:
        """Add the job of a study; with `deliveries`, their state, results too. Return the results' UIDs."""
        is_running, is_answered = state == "running", bool(deliveries)
        detail = _texts()["answer"] if is_answered else {"evidence": _texts()["answer"]["evidence"]}
        row = {
            "StudyInstanceUID": study,
            "revision": 1,
            "state": state,
            "attempts": int(is_running or is_answered),
            "reason": "3 lesions, 60.6 ml in all." if is_answered else "",
            "outcome": "lesions" if is_answered else None,
            "detail": json.dumps(detail if is_running or is_answered else {}),
            "owner": f"work@{socket.gethostname()}/9783fab2" if is_running else None,
            "lease_until": self._killed_at + 60 if is_running else None,
            **dict.fromkeys(("not_before", "created_at", "updated_at"), self._killed_at),
        }
        with closing(sqlite3.connect(self.ledger)) as connection, connection:
            job = _insert(connection, "jobs", row)
            event = {
                "StudyInstanceUID": study,
                "at": self._killed_at,
                "what": "opened",
                "detail": '{"revision":1}',
            }
            _insert(connection, "events", event)
            kinds = RESULTS if is_answered else {}
            return [self._add_result(connection, job, study, kind, deliveries) for kind in kinds]

    def _add_instance(
        self,
        connection: sqlite3.Connection,
        instance: Dataset,
        stored: tuple[str, str, int],
        *,
        is_indexed: bool,
    ) -> None:
        path, sha256, size_bytes = stored
        study, series = str(instance.StudyInstanceUID), str(instance.SeriesInstanceUID)
        if is_indexed:
            connection.execute(
                "INSERT OR IGNORE INTO studies VALUES (?, ?, ?)", (study, *[self._killed_at] * 2)
            )
        row = {
            "SOPInstanceUID": str(instance.SOPInstanceUID),
            "sha256": sha256,
            "arrival": 0,
            "SOPClassUID": str(instance.SOPClassUID),
            "TransferSyntaxUID": str(ExplicitVRLittleEndian),
            "path": path,
            "size_bytes": size_bytes,
            "calling_ae": SCANNER[0],
            "peer_host": SCANNER[1],
            "received_at": self._killed_at,
            "reading": "indexed" if is_indexed else "new",
            "StudyInstanceUID": study if is_indexed else None,
            "SeriesInstanceUID": series if is_indexed else None,
            "header": _header(instance) if is_indexed else None,
            "indexed_at": self._killed_at if is_indexed else None,
        }
        _insert(connection, "instances", row)

    def _add_result(self, connection: sqlite3.Connection, job: int, study: str, kind: str, state: str) -> str:
        uid, series = (f"2.25.{int(_hash(f'{study} {kind} {level}'), 16)}" for level in ("object", "series"))
        path = f"results/{_hash(study)}/1/{kind}.dcm"
        content = _write_result(self.spool / path, study, series, uid, kind)
        result = _insert(
            connection,
            "results",
            {
                "job_id": job,
                "kind": kind,
                "path": path,
                "sha256": hashlib.sha256(content).hexdigest(),
                "SOPInstanceUID": uid,
                "SOPClassUID": RESULTS[kind],
                "SeriesInstanceUID": series,
                "created_at": self._killed_at,
            },
        )
        is_sent = state == "sent"
        row = {
            "job_id": job,
            "result_id": result,
            "StudyInstanceUID": study,
            "destination": "pacs",
            "state": state,
            "attempts": 1,
            "next_attempt_at": self._killed_at,
            "first_failed_at": None if is_sent else self._killed_at,
            "last_status": "0x0000: success"
            if is_sent
            else "the peer cannot be reached, or broke the association off",
            "updated_at": self._killed_at,
            "sent_at": self._killed_at if is_sent else None,
        }
        _insert(connection, "deliveries", row)
        return uid


@cache
def _texts() -> dict[str, Any]:
    texts: dict[str, Any] = json.loads((HERE / "release_0_4.json").read_text())
    return texts


def _header(instance: Dataset) -> str:
    """Return the header of an instance of the half-size FLAIR as that release noted it."""
    own = {
        keyword: str(instance[keyword].value)
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    }
    positions = [[float(number) for number in instance.ImagePositionPatient]]
    place = {"positions": positions, "InstanceNumber": int(instance.InstanceNumber)}
    return json.dumps({**_texts()["header"], **own, **place}, separators=(",", ":"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _encode_meta(uid: str) -> bytes:
    """Return the first bytes of a file as that release wrote them: (0002,0001) to (0002,0016)."""
    elements = struct.pack("<HH2sHL2s", 0x0002, 0x0001, b"OB", 0, 2, b"\0\1")
    texts: Sequence[tuple[int, bytes, str, bytes]] = (
        (0x0002, b"UI", "1.2.840.10008.5.1.4.1.1.4", b"\0"),
        (0x0003, b"UI", uid, b"\0"),
        (0x0010, b"UI", str(ExplicitVRLittleEndian), b"\0"),
        (0x0012, b"UI", "1.2.826.0.1.3680043.8.498.1", b"\0"),
        (0x0013, b"SH", "DICOMNODE", b" "),
        (0x0016, b"AE", SCANNER[0], b" "),
    )
    for element, vr, text, padding in texts:
        value = text.encode() + padding * (len(text) % 2)
        elements += struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value
    group_length = struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(elements))
    return b"\0" * PREAMBLE_BYTES + b"DICM" + group_length + elements


def _write_result(path: Path, study: str, series: str, uid: str, kind: str) -> bytes:
    """Write a result that names its study and little else; delivery sends the bytes as they are."""
    result = Dataset()
    result.SOPClassUID, result.SOPInstanceUID = RESULTS[kind], uid
    result.StudyInstanceUID, result.SeriesInstanceUID, result.Modality = study, series, kind.upper()
    result.PatientID = "OLD"
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    result.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> int:
    names, marks = ", ".join(f'"{name}"' for name in row), ", ".join("?" * len(row))
    return (
        connection.execute(f'INSERT INTO "{table}" ({names}) VALUES ({marks})', list(row.values())).lastrowid
        or 0
    )
