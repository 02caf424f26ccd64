"""The report that exists for any study: whose it is, and why there is no other answer.

It is a minimal structured report without a template (PS3.3 A.35), of the class that the destination takes.
Identity is carried byte for byte from the source; where that is not possible an element stays empty, and a
sentence says so.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dicomnode.results.last_resort.encoding import LONGEST_SHORT_VALUE, Elements, encode_file, put, put_items
from dicomnode.results.last_resort.raw import read_raw_elements
from dicomnode.results.last_resort.sentences import encode_text, write_sentence

REPORT_CLASSES: Mapping[str, str] = {
    "enhanced": "1.2.840.10008.5.1.4.1.1.88.22",
    "comprehensive": "1.2.840.10008.5.1.4.1.1.88.33",
    "comprehensive-3d": "1.2.840.10008.5.1.4.1.1.88.34",
}
"""Key: `dicomnode.settings.config.ReportForm`."""
_STUDY, _SERIES, _CLASS, _INSTANCE = 0x0020000D, 0x0020000E, 0x00080016, 0x00080018
_CHARACTER_SET = 0x00080005
_DATE = r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"
_TIME = r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?"
# Type 2 of the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1), with what a value of each must be.
_IDENTITY: Mapping[int, tuple[str, str, str]] = {
    0x00080020: ("StudyDate", "DA", _DATE),
    0x00080030: ("StudyTime", "TM", _TIME),
    0x00080050: ("AccessionNumber", "SH", r".*"),
    0x00080090: ("ReferringPhysicianName", "PN", r".*"),
    0x00100010: ("PatientName", "PN", r".*"),
    0x00100020: ("PatientID", "LO", r".*"),
    0x00100030: ("PatientBirthDate", "DA", _DATE),
    0x00100040: ("PatientSex", "CS", r"[MFO]"),
    0x00200010: ("StudyID", "SH", r".*"),
}
_ISSUER = 0x00100021
_OPTIONAL: Mapping[int, tuple[str, str, str]] = {
    _CHARACTER_SET: ("SpecificCharacterSet", "CS", r"[A-Z0-9_ \\]*"),
    _ISSUER: ("IssuerOfPatientID", "LO", r".*"),
}
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_MANUFACTURER, _PRODUCT = "dicomnode project", "dicomnode-stroke"
_IMPLEMENTATION = ("2.25.123168463941683573751442645519736902694", "DICOMNODE")
_WARNING = "AI result, not for primary diagnosis"
# (value, scheme, meaning) of PS3.16.
_TITLE = ("18748-4", "LN", "Diagnostic Imaging Report")
_OBSERVER_TYPE, _DEVICE = ("121005", "DCM", "Observer Type"), ("121007", "DCM", "Device")
_DEVICE_UID, _DEVICE_NAME = (
    ("121012", "DCM", "Device Observer UID"),
    ("121013", "DCM", "Device Observer Name"),
)
_SUMMARY = ("111017", "DCM", "CAD Processing and Findings Summary")
_NONE_SUCCEEDED = ("111245", "DCM", "No algorithms succeeded; without findings")
_LESION, _UNDETERMINED = ("301766008", "SCT", "Lesion of Brain"), ("373068000", "SCT", "Undetermined")
_FINDING, _COMMENT = ("121071", "DCM", "Finding"), ("121106", "DCM", "Comment")


@dataclass(frozen=True)
class UnansweredStudy:
    """A study that has no answer without an answer.

    The ledger's row, the reason, and when its images came (seconds since the epoch).

    Attributes
    ----------
    paths
        Files that the ledger has under this study, in the order in which they are tried.
    failed
        Whether the analysis failed; else the study was refused.
    language
        RFC 5646 code of the language of the sentences; the reason itself is English.
    """

    StudyInstanceUID: str
    revision: int
    paths: tuple[Path, ...]
    code: str
    sentence: str
    failed: bool
    created_at: float
    series_number: int
    software_version: str
    language: str = "en"


@dataclass(frozen=True)
class SourceIdentity:
    """What one file says of patient and study.

    Whole elements by tag, which instance it is, and what had to stay empty: rows of the table of sentences,
    each with the keyword that it is about.
    """

    path: Path | None
    elements: Mapping[int, tuple[str, bytes]]
    remarks: tuple[tuple[str, str], ...]
    reference: tuple[str, str, str] | None


NOBODY = SourceIdentity(None, {}, (("identity-remark.unreadable", ""),), None)
"""The identity where no file has one that can be trusted: the Study Instance UID alone."""


@dataclass(frozen=True)
class LastResort:
    """One report as bytes, with the UIDs under which it is sent."""

    data: bytes
    SOPInstanceUID: str
    SOPClassUID: str
    SeriesInstanceUID: str


def read_identity(study: UnansweredStudy) -> SourceIdentity:
    """Return the identity of the first file that says that it is of this study; `NOBODY` where none does."""
    for path in study.paths:
        values = read_raw_elements(path, {_STUDY, _SERIES, _CLASS, _INSTANCE, *_IDENTITY, *_OPTIONAL})
        if _uid_of(values, _STUDY) == study.StudyInstanceUID:
            return _describe(path, values)
    return NOBODY


def build_last_resort(study: UnansweredStudy, identity: SourceIdentity, report_form: str) -> LastResort:
    """Return the report of a study.

    Parameters
    ----------
    report_form
        Key of `REPORT_CLASSES`.
    """
    sop_class = REPORT_CLASSES[report_form]
    facts = (
        study.StudyInstanceUID,
        study.revision,
        study.code,
        study.sentence,
        study.software_version,
        report_form,
        *([study.language] if study.language != "en" else []),
    )
    series, instance = _derive_uid("series", *facts), _derive_uid("instance", *facts)
    # The scanner's dates are local time, so ours are too.
    moment = datetime.fromtimestamp(study.created_at, tz=UTC).astimezone()
    date, time = f"{moment:%Y%m%d}", f"{moment:%H%M%S}"
    dataset: Elements = {}
    for tag, (vr, value) in identity.elements.items():
        put(dataset, tag, vr, value)
    for tag, (_, vr, _) in _IDENTITY.items():
        if tag not in dataset:
            put(dataset, tag, vr)
    put(dataset, _STUDY, "UI", study.StudyInstanceUID)
    put(dataset, _SERIES, "UI", series)
    put(dataset, _CLASS, "UI", sop_class)
    put(dataset, _INSTANCE, "UI", instance)
    for tag, vr, text in (
        (0x00080012, "DA", date),
        (0x00080013, "TM", time),
        (0x00080021, "DA", date),
        (0x00080023, "DA", date),
        (0x00080031, "TM", time),
        (0x00080033, "TM", time),
        (0x00080060, "CS", "SR"),
        (0x00080070, "LO", _MANUFACTURER),
        (0x0008103E, "LO", f"Stroke lesion report ({_WARNING})"),
        (0x00081090, "LO", _PRODUCT),
        (0x00181000, "LO", "0"),
        (0x00181020, "LO", study.software_version),
        (0x00200011, "IS", str(study.series_number)),
        (0x00200013, "IS", "1"),
        (0x0040A491, "CS", "COMPLETE"),
        (0x0040A493, "CS", "UNVERIFIED"),
        (0x0040A496, "CS", "PRELIMINARY"),
    ):
        put(dataset, tag, vr, text)
    # Type 2 of the SR document modules (PS3.3 C.17.1, C.17.2).
    put_items(dataset, 0x00081111)
    put_items(dataset, 0x0040A372)
    if identity.reference is not None:
        put_items(dataset, 0x0040A375, _evidence(study.StudyInstanceUID, identity.reference))
    _, character_set = identity.elements.get(_CHARACTER_SET, ("CS", b""))
    sentences = [encode_text(sentence, character_set) for sentence in _write_sentences(study, identity)]
    _put_content(dataset, sentences, _derive_uid("device", _PRODUCT, study.software_version))
    data = encode_file(
        dataset, SOPClassUID=sop_class, SOPInstanceUID=instance, implementation=_IMPLEMENTATION
    )
    return LastResort(data, instance, sop_class, series)


def _write_sentences(study: UnansweredStudy, identity: SourceIdentity) -> list[str]:
    """Return what the report says, in the order of reading; the last one is its limits."""
    language = study.language
    return [
        write_sentence("refusal.failed" if study.failed else "refusal.refused", language),
        write_sentence(
            "refusal.details", language, sentence=study.sentence.strip() or "No reason was given."
        ),
        write_sentence("refusal.reason-code", language, code=study.code),
        *(write_sentence(row, language, keyword=keyword) for row, keyword in identity.remarks),
        " ".join(write_sentence(f"limits.{row}", language) for row in ("warning", "no-absence")),
    ]


def _describe(path: Path, values: Mapping[int, Sequence[bytes]]) -> SourceIdentity:
    elements: dict[int, tuple[str, bytes]] = {}
    remarks = []
    for tag, (keyword, vr, pattern) in {**_IDENTITY, **_OPTIONAL}.items():
        distinct = {
            value.strip(b"\0 ") if vr != "PN" else value.rstrip(b"\0 ") for value in values.get(tag, ())
        }
        if not distinct - {b""}:
            continue
        value = next(iter(distinct))
        if len(distinct) > 1:
            remarks.append(("identity-remark.twice", keyword))
        elif len(value) > LONGEST_SHORT_VALUE or not re.fullmatch(pattern.encode(), value, re.DOTALL):
            remarks.append(("identity-remark.no-value", keyword))
        else:
            elements[tag] = (vr, value)
    uids = [_uid_of(values, tag) for tag in (_CLASS, _INSTANCE, _SERIES)]
    reference = (uids[0], uids[1], uids[2]) if all(uids) else None
    return SourceIdentity(path, elements, tuple(remarks), reference)


def _uid_of(values: Mapping[int, Sequence[bytes]], tag: int) -> str:
    """Return a UID letter by letter, leading zeros and all.

    Nothing where the bytes are none, or contradict each other.
    """
    distinct = {value.rstrip(b"\0 ") for value in values.get(tag, ())}
    text = distinct.pop().decode("latin-1") if len(distinct) == 1 else ""
    return text if len(text) <= 64 and _UID.fullmatch(text) else ""


def _evidence(StudyInstanceUID: str, reference: tuple[str, str, str]) -> Elements:
    """Return an item of Current Requested Procedure Evidence for (class, instance, series).

    The sequence is that of PS3.3 C.17.2.
    """
    instance, series, study = Elements(), Elements(), Elements()
    put(instance, 0x00081150, "UI", reference[0])
    put(instance, 0x00081155, "UI", reference[1])
    put_items(series, 0x00081199, instance)
    put(series, _SERIES, "UI", reference[2])
    put_items(study, 0x00081115, series)
    put(study, _STUDY, "UI", StudyInstanceUID)
    return study


def _put_content(dataset: Elements, sentences: Sequence[bytes], device_uid: str) -> None:
    """Add the content tree (PS3.3 C.17.3).

    It says who observed, that nothing is known of a lesion, and why in words.
    """
    *reasons, limits = sentences
    put(dataset, 0x0040A040, "CS", "CONTAINER")
    _put_code(dataset, 0x0040A043, _TITLE)
    put(dataset, 0x0040A050, "CS", "SEPARATE")
    context, contains = "HAS OBS CONTEXT", "CONTAINS"
    put_items(
        dataset,
        0x0040A730,
        _code_item(context, _OBSERVER_TYPE, _DEVICE),
        _value_item(context, _DEVICE_UID, "UIDREF", 0x0040A124, "UI", device_uid),
        _value_item(context, _DEVICE_NAME, "TEXT", 0x0040A160, "UT", "dicomnode"),
        _code_item(contains, _SUMMARY, _NONE_SUCCEEDED),
        _code_item(contains, _LESION, _UNDETERMINED),
        *(_value_item(contains, _FINDING, "TEXT", 0x0040A160, "UT", reason) for reason in reasons),
        _value_item(contains, _COMMENT, "TEXT", 0x0040A160, "UT", limits),
    )


def _code_item(relationship: str, name: tuple[str, str, str], value: tuple[str, str, str]) -> Elements:
    item = _content_item(relationship, name, "CODE")
    _put_code(item, 0x0040A168, value)
    return item


def _value_item(
    relationship: str, name: tuple[str, str, str], value_type: str, tag: int, vr: str, value: str | bytes
) -> Elements:
    item = _content_item(relationship, name, value_type)
    put(item, tag, vr, value)
    return item


def _content_item(relationship: str, name: tuple[str, str, str], value_type: str) -> Elements:
    item = Elements()
    put(item, 0x0040A010, "CS", relationship)
    put(item, 0x0040A040, "CS", value_type)
    _put_code(item, 0x0040A043, name)
    return item


def _put_code(elements: Elements, tag: int, code: tuple[str, str, str]) -> None:
    item = Elements()
    for code_tag, vr, text in zip(
        (0x00080100, 0x00080102, 0x00080104), ("SH", "SH", "LO"), code, strict=True
    ):
        put(item, code_tag, vr, text)
    put_items(elements, tag, item)


def _derive_uid(*facts: object) -> str:
    """Return the UID of these facts (PS3.5 B.2): the same study and reason give the same report."""
    return (
        f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(['dicomnode last resort', *map(str, facts)])).int}"
    )
