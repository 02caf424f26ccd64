"""Whose study it is, read from the files' own headers when a page needs it.

The ledger holds no patient data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicomnode.ledger.ledger import Ledger
from dicomnode.study.person import read_texts

_KEYWORDS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyDate",
    "StudyDescription",
    "InstitutionName",
    "StationName",
)


@dataclass(frozen=True)
class Person:
    """What the images of a study say of the patient and the order; empty where they say nothing."""

    PatientName: str = ""
    PatientID: str = ""
    PatientBirthDate: str = ""
    PatientSex: str = ""
    AccessionNumber: str = ""
    StudyDate: str = ""
    StudyDescription: str = ""
    InstitutionName: str = ""
    StationName: str = ""


def read_person(ledger: Ledger, spool: Path, StudyInstanceUID: str) -> Person:
    """Return what the newest readable image of a study says; empty where none can be read."""
    for path in ledger.listing.newest_paths(StudyInstanceUID, 3):
        texts = read_texts(spool / path, _KEYWORDS)
        if texts is not None:
            return Person(*(_readable(text) for text in texts))
    return Person()


def _readable(text: str) -> str:
    """Return a DICOM text for a page.

    Name components are parted by spaces; padding and control characters are left out.
    """
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(plain.replace("^", " ").split())
