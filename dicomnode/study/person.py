"""Whose images these are, by the files' own headers.

Read when it matters and kept nowhere, as the ledger holds no patient data.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from dicomnode.errors import StudyRefused
from dicomnode.records import IndexedInstance
from dicomnode.spool.opening import open_instance
from dicomnode.study.classes import MR_STORAGE
from dicomnode.study.elements import read_whole

WHO = ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
"""What two images of one person agree in, where both say it (PS3.3 C.7.1.1).

An ID says who only together with its issuer.
"""

# What results carry of the patient and the order: where it was corrected, an answer has to be given anew.
_CORRECTED = (*WHO, "PatientName", "AccessionNumber", "StudyID")
_MARK_DIGITS = 8


def mark_identity(dataset: Dataset) -> str:
    """Return a mark that two instances of one study share when patient and order agree.

    They agree when they are the same letter by letter.

    Eight hexadecimal digits of a hash that the Study Instance UID goes into: enough to see a correction, too
    few to find out whose it is, as thousands of patients have each of these marks, and the same patient
    another one in every study.
    """
    texts = [read_whole(dataset, keyword) for keyword in ("StudyInstanceUID", *_CORRECTED)]
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogateescape")).hexdigest()[:_MARK_DIGITS]


def read_texts(path: Path, keywords: Sequence[str]) -> tuple[str, ...] | None:
    """Return the whole text of these elements, empty where one is absent.

    It is None where the file cannot be read.
    """
    try:
        # An unknown character set is only warned about; the text is then taken as Latin-1, the same each
        # time.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_instance(path) as file:
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(keywords))
            return tuple(read_whole(header, keyword) for keyword in keywords)
    except (InvalidDicomError, OSError, ValueError, KeyError, EOFError):
        return None


def find_contradictions(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the keywords in which images contradict each other, never their values.

    An empty or unreadable one contradicts nothing.
    """
    people = [texts for path in paths if (texts := read_texts(path, WHO)) is not None]
    return tuple(
        keyword for number, keyword in enumerate(WHO) if len({texts[number] for texts in people} - {""}) > 1
    )


def agree_on_patient(instances: Iterable[IndexedInstance]) -> bool:
    """Return whether the MR images of a study carry one patient and order.

    While a correction arrives they do not.
    """
    return (
        len(
            {
                instance.header.identity_mark
                for instance in instances
                if instance.header.SOPClassUID in MR_STORAGE
            }
        )
        < 2
    )


def one_of_each_identity(instances: Iterable[IndexedInstance]) -> list[str]:
    """Return the path of an MR image for each mark that is there.

    Where instances have no mark (before 0.5.0) it is one path in each series.
    """
    paths: dict[tuple[str, str], str] = {}
    for instance in instances:
        header = instance.header
        if header.SOPClassUID in MR_STORAGE:
            paths.setdefault(
                (header.identity_mark, "" if header.identity_mark else header.SeriesInstanceUID),
                instance.path,
            )
    return list(paths.values())


def check_one_person(paths: Iterable[Path], subject: str) -> None:
    """Refuse images of two people; `subject` begins the sentence.

    Raises
    ------
    StudyRefused
        With code "patients-differ" and the keywords that differ.
    """
    differing = find_contradictions(paths)
    if differing:
        message = (
            f"{subject} of different patients by their headers, which differ in "
            f"{', '.join(differing)}; correct that and send it again."
        )
        raise StudyRefused(message, code="patients-differ")
