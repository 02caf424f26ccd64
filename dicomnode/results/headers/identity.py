"""Who and which study a result belongs to: the source's attributes, carried letter by letter.

Nothing of the patient's or the study's identity is invented or altered: a value is kept, or left empty where
it is not a value of its element (Patient's Sex "U", a date that is none).
"""

from __future__ import annotations

import copy

from pydicom.charset import encode_string, python_encoding
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

from dicomnode.records import Finding
from dicomnode.results.headers.elements import is_legal, set_element

# Type 2 of the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): empty where the source has none.
_REQUIRED_IDENTITY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName"),
)
_OPTIONAL_IDENTITY = (
    *("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "TimezoneOffsetFromUTC"),
)
_VERBATIM = (
    "PatientName",
    "PatientID",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
    "IssuerOfPatientID",
)
# Stands where bytes are no text of the source's character set.
_UNDECODED = "\ufffd"
_PATIENT_SEX = ("M", "F", "O")
IDENTITY_KEYWORDS = (*_REQUIRED_IDENTITY, *_OPTIONAL_IDENTITY)


def repair_identity(source: Dataset) -> Dataset:
    """Return the patient's and study's attributes, each a legal value, and their character set.

    Identifiers and names are carried letter by letter, with every value that a backslash makes of them; what
    cannot be, stays empty.
    """
    identity = Dataset()
    for keyword in IDENTITY_KEYWORDS:
        texts = _carried_texts(source, keyword)
        if texts or keyword in _REQUIRED_IDENTITY:
            set_element(identity, keyword, list(texts) if len(texts) > 1 else next(iter(texts), ""))
    if identity.get("PatientIdentityRemoved") == "YES" and "DeidentificationMethod" not in identity:
        # Type 1C: one of method and method codes must be there when the identity was removed.
        if "DeidentificationMethodCodeSequence" in source:
            identity.DeidentificationMethodCodeSequence = copy.deepcopy(
                source.DeidentificationMethodCodeSequence
            )
        else:
            del identity.PatientIdentityRemoved
    identity.SpecificCharacterSet = choose_characterset_element(source, identity)
    return identity


def find_lost_identity(source: Dataset) -> tuple[Finding, ...]:
    """Return one finding for each identifier or name that the source has and the results cannot carry."""
    return tuple(
        Finding(
            "identity-left-empty",
            "warning",
            f"{keyword} is empty in the results: its text cannot be decoded; correct the images.",
        )
        for keyword in _VERBATIM
        if any(_texts(source, keyword)) and not _carried_texts(source, keyword)
    )


def _carried_texts(source: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of an element as a result may have them.

    There are none where the source's are no values of the element.
    """
    texts = _texts(source, keyword)
    if not any(texts) or any(_UNDECODED in text for text in texts):
        return ()
    if keyword == "PatientSex":
        texts = tuple(text.upper() for text in texts)
        return texts if len(texts) == 1 and texts[0] in _PATIENT_SEX else ()
    if keyword in _VERBATIM:
        return texts
    multi_valued = keyword == "DeidentificationMethod"
    return (
        texts if all(is_legal(keyword, text) for text in texts) and (multi_valued or len(texts) == 1) else ()
    )


def choose_characterset_element(source: Dataset, identity: Dataset) -> str:
    """Return the source's character set where it carries the text, else UTF-8 (ISO_IR 192).

    The source's is kept where it is UTF-8 or a single table of one byte a letter.

    Old archives may not read UTF-8, so Latin-1 stays Latin-1; code extensions (ISO 2022) become UTF-8. GBK is
    called by the name of its superset, GB18030, in which the bytes are the same: more readers know that term
    (dciodvfy of 2022 does not know GBK).
    """
    source_value = source.get("SpecificCharacterSet") or "ISO_IR 100"
    source_value = "GB18030" if source_value == "GBK" else source_value
    if (
        not isinstance(source_value, str)
        or source_value not in python_encoding
        or source_value.startswith("ISO 2022")
        or source_value == "ISO_IR 6"
    ):
        source_value = "ISO_IR 100" if source_value == "ISO_IR 6" else "ISO_IR 192"
    texts = [text for keyword in IDENTITY_KEYWORDS for text in _texts(identity, keyword)]
    if not source.get("SpecificCharacterSet") and not all(text.isascii() for text in texts):
        return "ISO_IR 192"
    try:
        for text in texts:
            if (
                encode_string(text, [python_encoding[source_value]]).decode(python_encoding[source_value])
                != text
            ):
                return "ISO_IR 192"
    except (UnicodeError, LookupError):
        return "ISO_IR 192"
    return source_value


def carry_identity(dataset: Dataset, identity: Dataset) -> None:
    """Put the source's patient and study into a finished object, letter by letter.

    Highdicom takes no value with a backslash.
    """
    for element in identity:
        dataset[element.tag] = copy.deepcopy(element)


def single_values(identity: Dataset) -> Dataset:
    """Return an identity that highdicom takes.

    An element with several values stays empty until the object is finished.
    """
    plain = copy.deepcopy(identity)
    for element in plain:
        if element.VM > 1:
            element.value = ""
    return plain


def copy_identity(header: Dataset) -> Dataset:
    """Return the patient's and study's attributes of a repaired header, and their character set."""
    identity = Dataset()
    for keyword in (
        *IDENTITY_KEYWORDS,
        "DeidentificationMethodCodeSequence",
        "StudyInstanceUID",
        "SpecificCharacterSet",
    ):
        if keyword in header:
            identity.add(copy.deepcopy(header[keyword]))
    return identity


def _texts(source: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of an element as decoded text.

    A text with a backslash is several values (PS3.5 6.4).
    """
    value = source.get(keyword)
    values = value if isinstance(value, MultiValue) else [value]
    texts = tuple(_trim(item) for item in values if item is not None)
    return texts if any(texts) else ()


def _trim(value: object) -> str:
    text = str(value)
    if isinstance(value, PersonName):
        # A name of separators alone is none.
        return text.rstrip(" ^=") if set(text) <= set(" ^=") else text
    return text.strip()
