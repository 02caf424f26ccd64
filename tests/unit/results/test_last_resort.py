"""The report of last resort exists for any header, and never names a patient whom the source does not name."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.results.last_resort import sentences
from dicomnode.results.last_resort.raw import parse_raw_elements, read_raw_elements
from dicomnode.results.last_resort.report import (
    NOBODY,
    REPORT_CLASSES,
    UnansweredStudy,
    build_last_resort,
    read_identity,
)
from dicomnode.results.last_resort.sentences import ENGLISH
from dicomnode.results.records import AnswerContext, EncodedResult
from dicomnode.results.refuse import refuse
from dicomnode.results.verify.last_resort import verify_last_resort
from dicomnode.results.words.language import load_table
from dicomnode.settings.forms import PLAIN_FORM, ResultForm

# The values are odd on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
STUDY = "1.2.840.99.007.01"
LONG_VRS = (b"OB", b"OW", b"SQ", b"UN", b"UT")
CLASSES = (
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.6",
    "1.3.46.670589.11.0.0.12.1",
    "1.2.840.10008.5.1.4.1.1.77.2",
    "not a UID",
)


def element(tag: int, vr: bytes, value: bytes, encoding: str = "explicit") -> bytes:
    """Return one element as bytes, in a writer of this test's own."""
    value += b" " * (len(value) % 2)
    order = ">" if encoding == "big" else "<"
    number = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if encoding == "implicit":
        return number + struct.pack("<I", len(value)) + value
    if vr in LONG_VRS:
        return number + vr + b"\0\0" + struct.pack(f"{order}I", len(value)) + value
    return number + vr + struct.pack(f"{order}H", len(value)) + value


def part_10(dataset: bytes, syntax: bytes = b"1.2.840.10008.1.2.1") -> bytes:
    """Return a file around a dataset."""
    meta = (
        element(0x00020002, b"UI", b"1.2.3\0")
        + element(0x00020003, b"UI", b"1.2.3.4\0")
        + element(0x00020010, b"UI", syntax)
    )
    return bytes(128) + b"DICM" + element(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta + dataset


def header(
    identity: dict[int, tuple[bytes, bytes]], *, study: str = STUDY, encoding: str = "explicit"
) -> bytes:
    """Return a dataset of these elements (tag to VR and value) and the study's UID."""
    elements = {**identity, 0x0020000D: (b"UI", study.encode())}
    return b"".join(element(tag, vr, value, encoding) for tag, (vr, value) in sorted(elements.items()))


def unanswered(*paths: Path, **changes: Any) -> UnansweredStudy:
    facts = {
        "StudyInstanceUID": STUDY,
        "revision": 1,
        "paths": paths,
        "code": "processing-failed",
        "sentence": "Processing failed 3 times, at last because the program failed with KeyError.",
        "failed": True,
        "created_at": 1_772_000_000.25,
        "series_number": 9001,
        "software_version": "0.5.0",
    }
    return UnansweredStudy(**{**facts, **changes})


def crash() -> AnswerContext:
    raise KeyError("1.3.46.670589.11.0.0.12.1")


def read(data: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(data))


def raw(dataset: Dataset, tag: int) -> bytes:
    value = getattr(dataset.get_item(tag), "value", None) or b""
    return value.strip(b"\0 ") if isinstance(value, bytes) else str(value).encode()


def report_of(path: Path, **changes: Any) -> Dataset:
    (result,) = refuse(unanswered(path, **changes), (PLAIN_FORM,), crash)
    return read(result.data)


VALUES = st.one_of(
    st.binary(max_size=80),
    st.just(b"4711\\08"),
    st.just("Müller^Jörg".encode()),
    st.just(b"X" * 70),
    st.just(b"19500101"),
)
IDENTITY = st.dictionaries(
    st.sampled_from(
        [
            0x00080020,
            0x00080030,
            0x00080050,
            0x00080090,
            0x00100010,
            0x00100020,
            0x00100021,
            0x00100030,
            0x00100040,
            0x00200010,
        ]
    ),
    st.tuples(st.sampled_from([b"LO", b"PN", b"SH", b"DA", b"UN", b"ZZ", b"OB"]), VALUES),
)
OTHERS = st.dictionaries(
    st.sampled_from([0x00080005, 0x00080016, 0x00080018, 0x00080060, 0x0020000E, 0x00091001, 0x00101000]),
    st.tuples(
        st.sampled_from([b"CS", b"UI", b"LO", b"UN", b"??", b"SQ"]),
        st.one_of(VALUES, st.sampled_from([uid.encode() for uid in CLASSES])),
    ),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    IDENTITY,
    OTHERS,
    st.sampled_from(["explicit", "implicit", "big"]),
    st.none() | st.integers(0, 400),
    st.sampled_from(list(REPORT_CLASSES)),
)
def test_any_header_gets_a_report_of_its_own_study(
    tmp_path: Path,
    identity: dict[int, Any],
    others: dict[int, Any],
    encoding: str,
    cut: int | None,
    report_form: Any,
) -> None:
    path = tmp_path / "x.dcm"
    syntax = {
        "explicit": b"1.2.840.10008.1.2.1",
        "implicit": b"1.2.840.10008.1.2\0",
        "big": b"1.2.840.10008.1.2.2",
    }[encoding]
    path.write_bytes(part_10(header({**others, **identity}, encoding=encoding), syntax)[:cut])

    (result,) = refuse(unanswered(path), (ResultForm(report=report_form),), crash)
    report = read(result.data)

    assert report.StudyInstanceUID == STUDY
    assert report.SOPClassUID == REPORT_CLASSES[report_form]
    assert "processing-failed" in str([item.get("TextValue") for item in report.ContentSequence])
    for tag in (0x00100010, 0x00100020, 0x00100021, 0x00080050, 0x00200010):
        assert raw(report, tag) in (b"", identity.get(tag, (b"", b""))[1].strip(b"\0 "))
    for tag in (
        0x00100010,
        0x00100020,
        0x00100030,
        0x00100040,
        0x00080020,
        0x00080030,
        0x00080050,
        0x00080090,
        0x00200010,
    ):
        assert tag in report


@pytest.mark.parametrize("sop_class", CLASSES)
def test_a_first_instance_of_any_class_is_named_letter_by_letter_or_not_at_all(
    tmp_path: Path, sop_class: str
) -> None:
    path = tmp_path / "x.dcm"
    uids = {
        0x00080016: (b"UI", sop_class.encode()),
        0x00080018: (b"UI", b"1.02.003"),
        0x0020000E: (b"UI", b"1.2.007"),
    }
    path.write_bytes(part_10(header({**uids, 0x00100020: (b"LO", b"4711\\08")})))

    report = report_of(path)

    assert raw(report, 0x00100020) == b"4711\\08"
    if sop_class == "not a UID":
        assert "CurrentRequestedProcedureEvidenceSequence" not in report
        return
    series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    reference = series.ReferencedSOPSequence[0]
    assert (series.SeriesInstanceUID, reference.ReferencedSOPClassUID) == ("1.2.007", sop_class)
    assert reference.ReferencedSOPInstanceUID == "1.02.003"


def test_identity_of_another_study_or_of_nobody_is_left_out(tmp_path: Path) -> None:
    other, absent, whole = tmp_path / "other.dcm", tmp_path / "absent.dcm", tmp_path / "whole.dcm"
    other.write_bytes(part_10(header({0x00100020: (b"LO", b"SOMEBODY")}, study="1.2.3")))
    whole.write_bytes(part_10(header({0x00100020: (b"LO", b"RIGHT")})))

    assert raw(report_of(other), 0x00100020) == b""
    assert raw(report_of(absent), 0x00100020) == b""
    (result,) = refuse(unanswered(absent, other, whole), (PLAIN_FORM,), crash)
    assert read(result.data).PatientID == "RIGHT"
    (result,) = refuse(unanswered(), (PLAIN_FORM,), crash)
    assert read(result.data).StudyInstanceUID == STUDY


def test_an_element_that_stands_twice_with_two_values_is_left_empty_and_said(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    study = element(0x0020000D, b"UI", STUDY.encode())
    twice = element(0x00100020, b"LO", b"A") + element(0x00100020, b"LO", b"B")
    path.write_bytes(part_10(element(0x00080050, b"SH", b"A1") * 2 + twice + study))

    report = report_of(path)

    assert (report.PatientID, report.AccessionNumber) == ("", "A1")
    assert "PatientID was left empty" in str([item.get("TextValue") for item in report.ContentSequence])


def test_a_value_that_the_file_cuts_off_is_not_shortened(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    whole = part_10(element(0x00080018, b"UI", STUDY.encode()) + element(0x00100020, b"LO", b"12345678"))
    path.write_bytes(whole[:-4])

    assert read_raw_elements(path, {0x00100020}) == {}


def test_deep_sequences_illegal_vrs_and_huge_values_are_passed_over() -> None:
    item, item_end, end = (
        b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
        b"\xfe\xff\x0d\xe0\0\0\0\0",
        b"\xfe\xff\xdd\xe0\0\0\0\0",
    )
    open_sequence = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff"
    deep = (open_sequence + item) * 3000 + element(0x00100020, b"LO", b"DEEP") + (item_end + end) * 3000
    huge = element(0x00091010, b"OB", bytes(2**20))
    odd = struct.pack("<HH2sH", 0x0010, 0x0010, b"q!", 6) + b"NAME^X"
    data = deep + huge + odd + element(0x00100020, b"LO", b"TOP")

    assert parse_raw_elements(data, {0x00100010, 0x00100020}) == {
        0x00100010: [b"NAME^X"],
        0x00100020: [b"TOP "],
    }


def test_a_deflated_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = packer.compress(header({0x00100020: (b"LO", b"42")})) + packer.flush()
    path.write_bytes(part_10(deflated, b"1.2.840.10008.1.2.1.99"))

    assert read_identity(unanswered(path)).elements[0x00100020] == ("LO", b"42")


def test_the_same_study_and_reason_give_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(part_10(header({})))
    study = unanswered(path)

    first, second = (build_last_resort(study, read_identity(study), "enhanced") for _ in range(2))
    other = build_last_resort(unanswered(path, sentence="Another reason."), NOBODY, "enhanced")

    assert first == second
    assert first.SOPInstanceUID != other.SOPInstanceUID


@pytest.mark.parametrize("fault", [b"RIGHT", STUDY.encode(), b"18748-4"], ids=["patient", "study", "title"])
def test_the_gate_of_the_report_can_fail(tmp_path: Path, fault: bytes) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(part_10(header({0x00100020: (b"LO", b"RIGHT")})))
    study = unanswered(path)
    report = build_last_resort(study, read_identity(study), "comprehensive")

    def encoded(data: bytes) -> EncodedResult:
        return EncodedResult(
            "sr", data, report.SOPInstanceUID, report.SOPClassUID, report.SeriesInstanceUID, "sr.dcm"
        )

    verify_last_resort(encoded(report.data), STUDY, path)
    with pytest.raises(ResultRejected):
        verify_last_resort(encoded(report.data.replace(fault, b"9" * len(fault))), STUDY, path)


@pytest.mark.parametrize("report_form", list(REPORT_CLASSES))
def test_other_programs_read_the_report(tmp_path: Path, report_form: str) -> None:
    if shutil.which("dciodvfy") is None or shutil.which("dsrdump") is None:
        pytest.skip("dciodvfy (dicom3tools) or dsrdump (dcmtk) is not installed")
    path, file = tmp_path / "x.dcm", tmp_path / "sr.dcm"
    uids = {
        0x00080016: (b"UI", CLASSES[0].encode()),
        0x00080018: (b"UI", b"1.2.3.5"),
        0x0020000E: (b"UI", b"1.2.3.6"),
    }
    person = {
        0x00080005: (b"CS", b"ISO_IR 100"),
        0x00100010: (b"PN", "Müller^Jörg".encode("latin-1")),
        0x00100020: (b"LO", b"42"),
    }
    path.write_bytes(part_10(header({**uids, **person}, study="1.2.3")))
    study = unanswered(path, StudyInstanceUID="1.2.3")
    file.write_bytes(build_last_resort(study, read_identity(study), report_form).data)

    verdict = subprocess.run(
        ["dciodvfy", str(file)], capture_output=True, text=True, errors="replace", check=False
    ).stderr
    shown = subprocess.run(
        ["dsrdump", str(file)], capture_output=True, text=True, errors="replace", check=False
    )

    assert "Error" not in verdict
    assert shown.returncode == 0
    assert "Reason code" in shown.stdout


def test_its_english_rows_are_those_of_the_table_of_sentences() -> None:
    assert {row: load_table()[row]["en"] for row in ENGLISH} == ENGLISH


@pytest.mark.parametrize(
    ("language", "opening", "character_set"),
    [
        (
            "de",
            "Die Auswertung dieser Untersuchung auf Schlaganfall-Läsionen ist fehlgeschlagen.",
            b"ISO_IR 100",
        ),
        ("fr", "L'analyse des lésions d'AVC a échoué sur cet examen.", b"ISO_IR 192"),
        ("de", "Die Auswertung dieser Untersuchung auf Schlaganfall-Laesionen ist fehlgeschlagen.", b""),
        ("es", "El analisis de lesiones de ictus fallo en este estudio.", b"ISO_IR 144"),
        ("nl", "The analysis for stroke lesions failed on this study.", b""),
    ],
)
def test_the_report_speaks_the_language_in_letters_that_its_character_set_has(
    tmp_path: Path, language: str, opening: str, character_set: bytes
) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(part_10(header({0x00080005: (b"CS", character_set), 0x00100010: (b"PN", b"Roe^Jane")})))

    report = report_of(path, language=language)

    texts = [str(item.TextValue) for item in report.ContentSequence if "TextValue" in item]
    assert opening in texts
    assert str(report.PatientName) == "Roe^Jane"
    english = {row["en"] for row in load_table().values() if "en" in row}
    assert language == "nl" or not english & set(texts)


def test_a_table_that_is_gone_costs_the_language_and_not_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentences, "_TABLE", tmp_path / "gone.toml")
    sentences._read_table.cache_clear()
    try:
        assert sentences.write_sentence("refusal.failed", "de") == ENGLISH["refusal.failed"]
    finally:
        sentences._read_table.cache_clear()


@pytest.mark.parametrize(
    "row",
    [
        "no table",
        {"en": 5, "de": 5},
        {"en": "{nobody} gives this", "de": "{nobody} gives this"},
        {"en": "{", "de": "{"},
    ],
)
def test_a_row_that_is_broken_costs_the_language_and_not_the_report(
    monkeypatch: pytest.MonkeyPatch, row: object
) -> None:
    monkeypatch.setattr(sentences, "_read_table", lambda: {"refusal.reason-code": row})

    assert sentences.write_sentence("refusal.reason-code", "de", code="x") == "Reason code: x"
