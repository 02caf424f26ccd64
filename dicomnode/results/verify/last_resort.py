"""The gate of the last-resort report: read by another reader than the one that made it."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicomnode.errors import ResultRejected
from dicomnode.results.records import EncodedResult

_IDENTITY = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName"),
)
_TITLE = "18748-4"


def verify_last_resort(result: EncodedResult, StudyInstanceUID: str, source: Path | None) -> None:
    """Prove that a report can be read, belongs to the study, and names no patient but the source's.

    Parameters
    ----------
    source
        The file from which the identity was taken; None when there must be none.

    Raises
    ------
    ResultRejected
        With the first difference, or because the source cannot be read by a second reader.
    """
    report = _read(io.BytesIO(result.data), "the last-resort report")
    for keyword, value in (
        ("StudyInstanceUID", StudyInstanceUID),
        ("SOPInstanceUID", result.SOPInstanceUID),
        ("SOPClassUID", result.SOPClassUID),
        ("SeriesInstanceUID", result.SeriesInstanceUID),
    ):
        if _raw(report, keyword) != value.encode("ascii"):
            raise ResultRejected(f"the last-resort report has another {keyword} than it must have")
    origin = Dataset() if source is None else _read(source, "the source")
    if source is not None and _raw(origin, "StudyInstanceUID") != StudyInstanceUID.encode("ascii"):
        raise ResultRejected("the last-resort report's source is of another study")
    for keyword in _IDENTITY:
        # An element may stay empty; what it holds is the source's, byte for byte.
        if _raw(report, keyword) not in (b"", _raw(origin, keyword)):
            raise ResultRejected(f"the last-resort report's {keyword} differs from its source's")
    if report.ConceptNameCodeSequence[0].CodeValue != _TITLE or len(report.ContentSequence) < 6:
        raise ResultRejected("the last-resort report does not give a reason")


def _read(file: Path | io.BytesIO, name: str) -> Dataset:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(file, stop_before_pixels=True, force=True)
    except Exception as problem:  # noqa: BLE001  pydicom fails in many ways on odd headers, all alike to us
        raise ResultRejected(f"{name} cannot be read: {type(problem).__name__}") from None


def _raw(dataset: Dataset, keyword: str) -> bytes:
    """Return the bytes of an element as they stand in the file, without padding.

    Nothing where pydicom cannot give them.
    """
    try:
        value = getattr(dataset.get_item(Tag(keyword)), "value", None)
    except Exception:  # noqa: BLE001  as above: nothing is confirmed then
        return b""
    return value.strip(b"\0 ") if isinstance(value, bytes) else str(value or "").encode("utf-8")
