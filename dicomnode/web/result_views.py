"""Results of the node as a browser can show them: a report as lines, a PDF, pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

_UNREADABLE = (InvalidDicomError, OSError, ValueError, KeyError, AttributeError, EOFError)


@dataclass(frozen=True)
class ReportLine:
    """One item of a structured report: how deep it lies, its name, and its value as text."""

    depth: int
    name: str
    text: str


def report_lines(path: Path) -> tuple[ReportLine, ...]:
    """Return the content tree of a structured report (PS3.3 C.17.3); nothing for another object."""
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        return tuple(_lines(dataset, 0)) if dataset.get("ValueType") == "CONTAINER" else ()
    except _UNREADABLE:
        return ()


def pdf_of(path: Path) -> bytes | None:
    """Return the document of an Encapsulated PDF; None for another object."""
    try:
        dataset = pydicom.dcmread(path)
        if dataset.get("MIMETypeOfEncapsulatedDocument") != "application/pdf":
            return None
        document: bytes = dataset.EncapsulatedDocument
    except _UNREADABLE:
        return None
    # Padded to an even length (PS3.5 8.2); what follows the last end mark is no part of it.
    return document[: document.rfind(b"%%EOF") + 5]


def picture_of(path: Path, frame: int) -> bytes | None:
    """Return a frame, from 1, of a colour picture as PNG; None where there is none."""
    try:
        dataset = pydicom.dcmread(path)
        if dataset.get("Modality") not in ("OT", "SC") or not 1 <= frame <= int(
            dataset.get("NumberOfFrames", 1)
        ):
            return None
        pixels = dataset.pixel_array
    except _UNREADABLE:
        return None
    buffer = io.BytesIO()
    Image.fromarray(pixels[frame - 1] if pixels.ndim == 4 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _lines(item: Dataset, depth: int) -> Iterator[ReportLine]:
    name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
    text = _text(item)
    if text or item.get("ValueType") == "CONTAINER":
        yield ReportLine(depth, str(name), text)
    for child in item.get("ContentSequence", ()):
        yield from _lines(child, depth + 1)


def _text(item: Dataset) -> str:
    kind = item.get("ValueType", "")
    if kind == "NUM" and item.get("MeasuredValueSequence"):
        measured = item.MeasuredValueSequence[0]
        # In UCUM braces hold a word that is no unit, and 1 is a plain number.
        unit = str(measured.MeasurementUnitsCodeSequence[0].CodeValue)
        unit = "" if unit in ("1", "{-1:1}", "{0:1}") else unit.strip("{}")
        return f"{measured.NumericValue:g} {unit}".strip()
    if kind == "CODE":
        return str(item.ConceptCodeSequence[0].CodeMeaning)
    keyword = {
        "TEXT": "TextValue",
        "UIDREF": "UID",
        "DATETIME": "DateTime",
        "DATE": "Date",
        "PNAME": "PersonName",
    }
    return str(item.get(keyword[kind], "")) if kind in keyword else ""
