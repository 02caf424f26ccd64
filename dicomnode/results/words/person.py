"""Whose results they are, as people write it: names, dates and sexes in the report's language."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dicomnode.results.words.language import phrase, write_date
from dicomnode.settings.config import Language

_ROWS = (
    ("patient-id", "PatientID"),
    ("birth-date", "PatientBirthDate"),
    ("sex", "PatientSex"),
    ("accession-number", "AccessionNumber"),
    ("study-date", "StudyDate"),
)
_SEXES = {"F": "female", "M": "male", "O": "other"}
_DATES = frozenset({"PatientBirthDate", "StudyDate"})


def describe_person(identity: Dataset, language: Language) -> list[tuple[str, str]]:
    """Return patient and study as heads and values, the name first.

    Parameters
    ----------
    identity
        The patient's and study's attributes, decoded.
    """
    name = write_name(read_text(identity, "PatientName")) or phrase("identity.no-name", language)
    rows = [(phrase("identity.patient", language), name)]
    for row, keyword in _ROWS:
        value = read_text(identity, keyword)
        if keyword in _DATES:
            value = write_date(value, language)
        elif keyword == "PatientSex" and value in _SEXES:
            value = phrase(f"identity.{_SEXES[value]}", language)
        rows.append((phrase(f"identity.{row}", language), value or "-"))
    return rows


def read_text(identity: Dataset, keyword: str) -> str:
    """Return an element as one text; several values are those of one text with backslashes."""
    value = identity.get(keyword)
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value or "")


def write_name(PatientName: str) -> str:
    """Return a person's name (PS3.5 6.2.1) as one reads it: family name first, one group after the other.

    >>> write_name("Musterfrau^Erika^Maria^Dr.^MD"), write_name("Wang^XiaoDong=\u738b^\u5c0f\u4e1c")
    ('Musterfrau, Dr. Erika Maria, MD', 'Wang, XiaoDong (\u738b \u5c0f\u4e1c)')
    """
    alphabetic, *others = [_write_group(group, number) for number, group in enumerate(PatientName.split("="))]
    scripts = "; ".join(group for group in others if group)
    if not alphabetic:
        return scripts
    return f"{alphabetic} ({scripts})" if scripts else alphabetic


def _write_group(group: str, number: int) -> str:
    family, given, middle, prefix, suffix, *rest = (*(part.strip() for part in group.split("^")), *[""] * 5)
    if number:
        # Ideographic and phonetic names have no comma.
        return _join((prefix, family, given, middle, suffix, *rest), " ")
    names = _join((prefix, given, middle), " ")
    return _join((family, names, suffix, *rest), ", ")


def _join(words: Sequence[str], mark: str) -> str:
    return re.sub(r"\s+", " ", mark.join(word for word in words if word))
