"""Whose a result is: every identifying element against the bytes of the source."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.results.verify.source import IDENTITY, SourceStudy, texts_of

# An element whose source value is none of its VR may be empty in the result; names and identifiers are free
# text.
_LEGAL: Mapping[str, str] = {
    "PatientBirthDate": r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])",
    "StudyDate": r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])",
    "StudyTime": r"([01]\d|2[0-3])([0-5]\d([0-5]\d|60)?(\.\d{1,6})?)?",
    "PatientSex": r"[MFOmfo]",
}
_UNDECODED = "\ufffd"


def check_identity(dataset: Dataset, source: SourceStudy) -> None:
    """Refuse a result that belongs to another study or patient than its source.

    Raises
    ------
    ResultRejected
        With the element that differs, never its value: patient data stays out of messages.
    """
    if str(dataset.StudyInstanceUID) != source.StudyInstanceUID:
        raise ResultRejected("the result belongs to another study than its source")
    for keyword in IDENTITY:
        expected, stated = source.identity[keyword], texts_of(dataset, keyword)
        if keyword == "PatientSex":
            expected = tuple(text.upper() for text in expected)
        if stated != expected and (stated or _must_be_carried(keyword, expected)):
            raise ResultRejected(f"the result's {keyword} differs from its source's")


def _must_be_carried(keyword: str, texts: tuple[str, ...]) -> bool:
    """Return whether a result has to have these values.

    They are values of their element, and could be decoded.
    """
    if keyword in _LEGAL:
        return len(texts) == 1 and re.fullmatch(_LEGAL[keyword], texts[0]) is not None
    return bool(texts) and not any(_UNDECODED in text for text in texts)
