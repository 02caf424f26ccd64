"""Reading of headers: right ones, damaged ones, and what must never come out of them."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    SegmentationStorage,
    UID_dictionary,
)

from dicomnode.errors import UnreadableInstance
from dicomnode.records import InstanceHeader
from dicomnode.spool.part10 import encode_file_meta
from dicomnode.study.headers import is_answerable, read_header
from tests.factories.dicom import phantom_series
from tests.factories.headers import make_header

SMALL: dict[str, Any] = {"shape": (3, 16, 12), "study_uid": "1.2.3", "frame_of_reference_uid": "1.2.9"}


def one_instance(**overrides: Any) -> Dataset:
    return phantom_series("flair", **SMALL, overrides=overrides).instances[1]


def saved(tmp_path: Path, dataset: Dataset) -> Path:
    path = tmp_path / "instance.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_a_classic_header_is_read_completely(tmp_path: Path) -> None:
    dataset = one_instance()
    header = read_header(saved(tmp_path, dataset))
    assert (header.SOPInstanceUID, header.StudyInstanceUID, header.Modality) == (
        dataset.SOPInstanceUID,
        "1.2.3",
        "MR",
    )
    assert (header.EchoTime, header.RepetitionTime, header.InversionTime, header.FlipAngle) == (
        120,
        9000,
        2500,
        150,
    )
    assert (header.Rows, header.Columns, header.NumberOfFrames, header.PixelSpacing) == (
        16,
        12,
        1,
        (3.0, 3.0),
    )
    assert header.positions == (tuple(float(value) for value in dataset.ImagePositionPatient),)
    assert header.orientations == ((1, 0, 0, 0, 1, 0),)
    assert (header.ScanningSequence, header.ImagesInAcquisition, header.InstanceNumber) == (
        ("SE", "IR"),
        3,
        2,
    )


def test_an_enhanced_header_has_one_place_a_frame(tmp_path: Path) -> None:
    series = phantom_series("t1", **SMALL, plane="sagittal", multiframe=True)
    header = read_header(saved(tmp_path, series.instances[0]))
    assert header.NumberOfFrames == len(header.positions) == len(header.orientations) == 3
    assert len(set(header.positions)) == 3
    assert (header.EchoTime, header.RepetitionTime, header.InversionTime) == (3, 2300, 900)
    assert (header.AcquisitionContrast, header.PixelSpacing, header.BodyPartExamined) == (
        "T1",
        (3.0, 3.0),
        "BRAIN",
    )
    assert header.extra["EchoPulseSequence"] == "GRADIENT"


def test_no_patient_data_is_kept(tmp_path: Path) -> None:
    dataset = one_instance(
        PatientName="DOE^JANE",
        PatientID="4711-0815",
        PatientBirthDate="19120623",
        PatientComments="lives in X",
    )
    text = repr(read_header(saved(tmp_path, dataset)))
    assert not any(secret in text for secret in ("DOE", "JANE", "4711", "19120623", "lives in"))


def test_every_syntax_of_the_header_gives_the_same(tmp_path: Path) -> None:
    reference = read_header(saved(tmp_path, one_instance()))
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        dataset = one_instance()
        dataset.file_meta.TransferSyntaxUID = syntax
        path = tmp_path / "other.dcm"
        dataset.save_as(path, enforce_file_format=True)
        assert read_header(path) == reference, syntax.name


def test_a_bare_dataset_without_preamble_and_meta_is_read(tmp_path: Path) -> None:
    dataset = one_instance()
    buffer = io.BytesIO()
    pydicom.dcmwrite(
        buffer, Dataset(dataset), implicit_vr=True, little_endian=True, enforce_file_format=False
    )
    path = tmp_path / "bare.dcm"
    path.write_bytes(buffer.getvalue())
    assert read_header(path).SOPInstanceUID == dataset.SOPInstanceUID


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 40, b"not a DICOM file, but long enough to be looked at " * 9, b"\0" * 128 + b"DICM"],
)
def test_what_is_not_dicom_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.dcm"
    path.write_bytes(content)
    with pytest.raises(UnreadableInstance, match=r"^(not-dicom|unreadable): "):
        read_header(path)


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInstance, match=r"^unreadable: "):
        read_header(tmp_path / "nothing.dcm")


@pytest.mark.parametrize("multiframe", [False, True])
def test_every_truncation_is_named_or_harmless(tmp_path: Path, multiframe: bool) -> None:
    dataset = phantom_series("flair", **SMALL, multiframe=multiframe).instances[0]
    whole = saved(tmp_path, dataset).read_bytes()
    path = tmp_path / "cut.dcm"
    for size in [*range(140, len(whole) - 1, 97), len(whole) - 2]:
        path.write_bytes(whole[:size])
        with pytest.raises(UnreadableInstance, match=r"^(truncated|not-dicom|identity-missing|unreadable): "):
            read_header(path)


@pytest.mark.parametrize("SOPClassUID", [MRImageStorage, SegmentationStorage])
def test_a_truncated_image_says_which_study_it_is_of(tmp_path: Path, SOPClassUID: str) -> None:
    dataset = one_instance(SOPClassUID=SOPClassUID)
    dataset.file_meta.MediaStorageSOPClassUID = SOPClassUID
    path = saved(tmp_path, dataset)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UnreadableInstance, match=r"^truncated: ") as caught:
        read_header(path)
    assert caught.value.StudyInstanceUID == dataset.StudyInstanceUID


@pytest.mark.parametrize(
    "SOPClassUID",
    [
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class"
        and "Storage" in name
        and "Image Storage" not in name
        and uid.startswith("1.2.840.10008.5.1.4")
    ]
    + ["1.3.46.670589.11.0.0.12.1", "1.2.3.4"],
)
def test_what_has_no_pixels_by_its_class_is_whole_without_them(tmp_path: Path, SOPClassUID: str) -> None:
    dataset = one_instance(SOPClassUID=SOPClassUID)
    del dataset.PixelData
    dataset.file_meta.MediaStorageSOPClassUID = SOPClassUID
    assert read_header(saved(tmp_path, dataset)).SOPClassUID == SOPClassUID


def test_an_image_without_pixels_is_truncated(tmp_path: Path) -> None:
    dataset = one_instance()
    del dataset.PixelData
    with pytest.raises(UnreadableInstance, match=r"^truncated: ") as caught:
        read_header(saved(tmp_path, dataset))
    assert caught.value.StudyInstanceUID == dataset.StudyInstanceUID


@pytest.mark.parametrize("uid", [b"1.2.03.4", b"00.1.2", b"1." + b"9" * 62])
def test_uids_as_scanners_write_them_are_carried_letter_by_letter(tmp_path: Path, uid: bytes) -> None:
    dataset = one_instance(StudyInstanceUID="1." + "7" * 62)
    path = saved(tmp_path, dataset)
    padded = uid.ljust(64, b"\0")
    path.write_bytes(path.read_bytes().replace(b"1." + b"7" * 62, padded))
    assert read_header(path).StudyInstanceUID == uid.decode()


@pytest.mark.parametrize(
    "uid",
    [
        b"1.2\\3.4",
        b"1.2.x",
        b"1.2.",
        b".1",
        b"1..2",
        b"1.2-3",
        b"",
        b"1.2.\xb2",
        b"1.2\n",
        b"1.2\t",
        b"1.2\0.3",
    ],
)
def test_an_instance_whose_study_has_no_uid_is_of_no_study(tmp_path: Path, uid: bytes) -> None:
    dataset = one_instance(StudyInstanceUID="1." + "7" * 62)
    path = saved(tmp_path, dataset)
    path.write_bytes(path.read_bytes().replace(b"1." + b"7" * 62, uid.ljust(64, b"\0")))
    with pytest.raises(UnreadableInstance, match=r"^identity-missing: StudyInstanceUID") as caught:
        read_header(path)
    assert caught.value.StudyInstanceUID == ""


def test_an_instance_without_a_series_is_set_aside_under_its_study(tmp_path: Path) -> None:
    dataset = one_instance(SeriesInstanceUID=None)
    with pytest.raises(UnreadableInstance, match=r"^identity-missing: SeriesInstanceUID") as caught:
        read_header(saved(tmp_path, dataset))
    assert caught.value.StudyInstanceUID == dataset.StudyInstanceUID


def test_a_whole_file_where_a_dataset_belongs_is_named(tmp_path: Path) -> None:
    inner = saved(tmp_path, one_instance()).read_bytes()
    meta = {"SOPClassUID": MRImageStorage, "SOPInstanceUID": "1.2.3", "calling_ae": "SCANNER"}
    for TransferSyntaxUID in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        path = tmp_path / "twice.dcm"
        path.write_bytes(encode_file_meta(**meta, TransferSyntaxUID=TransferSyntaxUID) + inner)
        with pytest.raises(UnreadableInstance, match=r"^file-in-dataset: "):
            read_header(path)


CORRECTED = {
    "PatientID": "4711",
    "IssuerOfPatientID": "HOSPITAL",
    "PatientBirthDate": "19500101",
    "PatientSex": "F",
    "PatientName": "DOE^JANE",
    "AccessionNumber": "A1",
    "StudyID": "1",
}


@pytest.mark.parametrize("keyword", CORRECTED)
def test_the_mark_shows_every_correction_and_nobody(tmp_path: Path, keyword: str) -> None:
    def mark(**elements: str) -> str:
        return read_header(saved(tmp_path, one_instance(**(CORRECTED | elements)))).identity_mark

    assert mark() == mark(SeriesDescription="another")
    assert mark() != mark(**{keyword: "19500102"})
    assert mark() != mark(StudyInstanceUID="2.25.99")
    assert re.fullmatch("[0-9a-f]{8}", mark())


@pytest.mark.parametrize("multiframe", [False, True])
def test_garbage_in_the_header_never_raises_anything_else(tmp_path: Path, multiframe: bool) -> None:
    whole = saved(tmp_path, phantom_series("flair", **SMALL, multiframe=multiframe).instances[0]).read_bytes()
    random = np.random.default_rng(7)
    path, readable = tmp_path / "garbled.dcm", 0
    for _ in range(150):
        content = np.frombuffer(whole, np.uint8).copy()
        places = random.integers(132, min(len(content), 3000), size=6)
        content[places] = random.integers(0, 256, size=6)
        path.write_bytes(content.tobytes())
        try:
            readable += isinstance(read_header(path), InstanceHeader)
        except UnreadableInstance:
            continue
    assert readable > 10


def test_missing_identity_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, one_instance(StudyInstanceUID=None))
    with pytest.raises(UnreadableInstance, match=r"^identity-missing: StudyInstanceUID"):
        read_header(path)


def patched(tmp_path: Path, keyword: str, text: bytes) -> InstanceHeader:
    """Put raw text of equal length into a value, as broken senders do."""
    dataset = one_instance(**{keyword: "1234567890"})
    path = saved(tmp_path, dataset)
    content = path.read_bytes()
    assert content.count(b"1234567890") == 1
    path.write_bytes(content.replace(b"1234567890", text.ljust(10)))
    return read_header(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"120.5 ms", 120.5),
        (b"120,5", 120.5),
        (b"hundred", None),
        (b"1e1", 10.0),
        (b"nan", None),
        (b"inf", None),
    ],
)
def test_numbers_in_strange_strings(tmp_path: Path, text: bytes, expected: float | None) -> None:
    assert patched(tmp_path, "EchoTime", text).EchoTime == expected


def test_absent_and_empty_elements_are_absent(tmp_path: Path) -> None:
    empty = dict.fromkeys(
        ["EchoTime", "InversionTime", "ImageType", "BodyPartExamined", "SeriesNumber", "AcquisitionNumber"]
    )
    header = read_header(saved(tmp_path, one_instance(**empty, RepetitionTime="", SeriesDescription="")))
    assert header.EchoTime is header.RepetitionTime is header.InversionTime is header.SeriesNumber is None
    assert (header.ImageType, header.BodyPartExamined, header.SeriesDescription) == ((), "", "")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("DOTAREM 10 ml", True),
        ("Yes", True),
        ("NONE", False),
        ("No contrast", False),
        ("0", False),
        ("", False),
    ],
)
def test_a_word_for_no_agent_is_no_agent(tmp_path: Path, told: str, expected: bool) -> None:
    header = read_header(
        saved(tmp_path, one_instance(ContrastBolusAgent=told, ContrastBolusAgentSequence=[]))
    )
    assert header.ContrastBolusAgent is expected


def test_missing_geometry_is_empty_not_an_error(tmp_path: Path) -> None:
    header = read_header(
        saved(
            tmp_path, one_instance(ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None)
        )
    )
    assert (header.positions, header.orientations, header.PixelSpacing) == ((), (), ())


@pytest.mark.parametrize("charset", [b"ISO_IR 999", b"nonsense  ", b"\\\\\\\\\\\\\\\\\\\\"])
def test_an_unknown_character_set_does_not_matter(tmp_path: Path, charset: bytes) -> None:
    path = saved(tmp_path, one_instance(SeriesDescription="FLAIR"))
    content = path.read_bytes()
    assert content.count(b"ISO_IR 100") == 1
    path.write_bytes(content.replace(b"ISO_IR 100", charset))
    assert read_header(path).SeriesDescription == "FLAIR"


def test_an_impossible_sex_and_late_dates_are_no_matter(tmp_path: Path) -> None:
    path = saved(tmp_path, one_instance())
    content = path.read_bytes().replace(b"20260105", b"99999999")
    path.write_bytes(content)
    assert read_header(path).Modality == "MR"


def test_reading_is_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="dicomnode"):
        patched(tmp_path, "EchoTime", b"hundred")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("sop_class", "expected"),
    [
        ("1.2.840.10008.5.1.4.1.1.4", True),
        ("1.2.840.10008.5.1.4.1.1.4.1", True),
        ("1.2.840.10008.5.1.4.1.1.2", True),
        ("1.2.840.10008.5.1.4.1.1.66.4", False),
        ("1.2.840.10008.5.1.4.1.1.88.34", False),
        ("1.2.840.10008.5.1.4.1.1.7", False),
        ("1.2.840.10008.5.1.4.1.1.104.1", False),
    ],
)
def test_images_ask_for_an_answer_and_results_do_not(sop_class: str, expected: bool) -> None:
    assert is_answerable(make_header("1", SOPClassUID=sop_class)) is expected
