"""Whose images these are, by the files' own headers: read when it matters and kept nowhere, as the ledger holds no patient data."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from dicomnode.errors import StudyRefused
from dicomnode.spool.part10 import open_instance

WHO = ("PatientID", "PatientBirthDate", "PatientSex")
"""What two images of one person agree in, where both say it (PS3.3 C.7.1.1)."""


def read_texts(path: Path, keywords: Sequence[str]) -> tuple[str, ...] | None:
    """Return the text of these elements, empty where one is absent; None where the file cannot be read."""
    try:
        # An unknown character set is only warned about; the text is then taken as Latin-1, the same each time.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_instance(path) as file:
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(keywords))
            return tuple(str(header.get(keyword) or "").strip() for keyword in keywords)
    except (InvalidDicomError, OSError, ValueError, KeyError, EOFError):
        return None


def find_contradictions(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the keywords in which images contradict each other, never what they say; what is empty or cannot be read contradicts nothing."""
    people = [texts for path in paths if (texts := read_texts(path, WHO)) is not None]
    pairs = list(itertools.combinations(people, 2))
    return tuple(
        keyword
        for number, keyword in enumerate(WHO)
        if any(one[number] and other[number] and one[number] != other[number] for one, other in pairs)
    )


def check_one_person(paths: Iterable[Path], what: str) -> None:
    """Refuse images of two people; `what` begins the sentence.

    Raises
    ------
    StudyRefused
        With code "patients-differ" and the keywords that differ.
    """
    differing = find_contradictions(paths)
    if differing:
        message = f"{what} of different patients by their headers, which differ in {', '.join(differing)}; correct that and send it again."
        raise StudyRefused(message, code="patients-differ")
