"""Whose study it is, read from the files' own headers when a page needs it.

The ledger holds no patient data, so a search reads one header a study; the process remembers them in memory
alone and forgets them when it ends.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from dicomnode.ledger.listing import Cursor, StudyFilter
from dicomnode.ledger.shown import StudyLine
from dicomnode.study.person import read_texts
from dicomnode.web.site import Site

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
_NEWEST_STUDIES = 2000
_PAGE = 200
_REMEMBERED = 20_000


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


@dataclass(frozen=True)
class Searched:
    """Studies that a search found, and how many it looked at; `is_complete` says that these were all."""

    lines: tuple[StudyLine, ...]
    looked_at: int
    is_complete: bool


class _Memory:
    """Patient ID and accession number of studies by UID and time of the last image. Thread-safe, bounded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: OrderedDict[tuple[str, float], tuple[str, str]] = OrderedDict()

    def numbers_of(self, site: Site, line: StudyLine) -> tuple[str, str]:
        key = (line.StudyInstanceUID, line.last_received_at)
        with self._lock:
            if key in self._numbers:
                return self._numbers[key]
        person = read_person(site, line.StudyInstanceUID)
        numbers = person.PatientID, person.AccessionNumber
        with self._lock:
            self._numbers[key] = numbers
            while len(self._numbers) > _REMEMBERED:
                self._numbers.popitem(last=False)
        return numbers


_MEMORY = _Memory()


def read_person(site: Site, StudyInstanceUID: str) -> Person:
    """Return what the newest readable image of a study says; empty where none can be read."""
    for path in site.ledger.listing.newest_paths(StudyInstanceUID, 3):
        texts = read_texts(site.layout.root / path, _KEYWORDS)
        if texts is not None:
            return Person(*(_readable(text) for text in texts))
    return Person()


def search_patients(site: Site, patient_id: str, accession: str) -> Searched:
    """Return the studies with this patient ID and accession number (empty: any), upper and lower case alike.

    The newest 2,000 studies are looked at.
    """
    matching, looked_at = [], 0
    for line in _newest(site):
        looked_at += 1
        numbers = _MEMORY.numbers_of(site, line)
        asked_for = (patient_id, accession)
        if all(
            not text or text.casefold() == number.casefold()
            for text, number in zip(asked_for, numbers, strict=True)
        ):
            matching.append(line)
    return Searched(tuple(matching), looked_at, looked_at < _NEWEST_STUDIES)


def _newest(site: Site) -> Iterator[StudyLine]:
    after: Cursor | None = None
    for _ in range(_NEWEST_STUDIES // _PAGE):
        lines = site.ledger.listing.page(StudyFilter(), _PAGE, after)
        yield from lines
        if len(lines) < _PAGE:
            return
        after = Cursor(lines[-1].last_received_at, lines[-1].StudyInstanceUID)


def _readable(text: str) -> str:
    """Return a DICOM text for a page.

    Name components are parted by spaces; padding and control characters are left out.
    """
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(plain.replace("^", " ").split())
