from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from dicomnode.errors import StudyRefused
from dicomnode.results.build import build_answer, build_refusal
from dicomnode.results.headers.identity import repair_identity
from dicomnode.results.headers.source import read_header, read_source
from dicomnode.results.verify.gate import read_back, verify_answer, verify_refusal
from dicomnode.states import Outcome
from tests.factories.results import Answered, answered_study, make_result, texts_of

SMALL: dict[str, Any] = {
    "roles": ("flair",),
    "flair": {"shape": (8, 48, 40), "spacing_mm": (24.0, 4.0, 5.0)},
}


@pytest.fixture
def answered(tmp_path: Path) -> Answered:
    return answered_study(tmp_path, **SMALL)


def edit(answered: Answered, change: Callable[[Dataset, int], None]) -> None:
    """Rewrite every source instance with a fault; writing is lenient, as scanners are."""
    settings = pydicom.config.settings
    modes = settings.reading_validation_mode, settings.writing_validation_mode
    settings.reading_validation_mode = settings.writing_validation_mode = pydicom.config.IGNORE
    try:
        for number, frame in enumerate(answered.context.sources[0].frames):
            dataset = pydicom.dcmread(frame.path)
            change(dataset, number)
            dataset.save_as(frame.path)
    finally:
        settings.reading_validation_mode, settings.writing_validation_mode = modes


def answer(answered: Answered) -> dict[str, Dataset]:
    results = build_answer(answered.context, answered.volume, answered.result, ())
    verify_answer(results, answered.context, answered.volume, answered.result)
    return {item.kind: read_back(item) for item in results}


TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)


@pytest.mark.parametrize("absent", [TYPE_2[::2], TYPE_2[1::2]], ids=",".join)
def test_absent_type_2_attributes_stay_empty(answered: Answered, absent: tuple[str, ...]) -> None:
    def remove(dataset: Dataset, _: int) -> None:
        dataset.ReferringPhysicianName = "REFERRER"
        for keyword in absent:
            del dataset[keyword]

    edit(answered, remove)

    for dataset in answer(answered).values():
        assert [keyword for keyword in TYPE_2 if not dataset[keyword].value] == list(absent)


@pytest.mark.parametrize(
    ("sex", "kept"), [("M ", "M"), ("f", "F"), ("U", ""), ("0000", ""), ("O", "O"), ("MALE", "")]
)
def test_patient_sex_is_legal_or_empty(answered: Answered, sex: str, kept: str) -> None:
    edit(answered, lambda dataset, _: setattr(dataset, "PatientSex", sex))

    assert {dataset.PatientSex for dataset in answer(answered).values()} == {kept}


# Keyword: a value that is none of its element, and the VR that it comes under.
NO_VALUES = {
    "PatientBirthDate": ("1950.01", "LO"),
    "PatientAge": ("76", "LO"),
    "StudyTime": ("9:00", "LO"),
    "PatientWeight": ("seventy", "CS"),
    "SliceThickness": ("", "LO"),
}


def test_values_that_are_none_of_their_elements_are_dropped(answered: Answered) -> None:
    def spoil(dataset: Dataset, _: int) -> None:
        for keyword, (value, vr) in NO_VALUES.items():
            dataset[keyword] = pydicom.DataElement(pydicom.datadict.tag_for_keyword(keyword), vr, value)

    edit(answered, spoil)

    for dataset in answer(answered).values():
        assert [keyword for keyword in NO_VALUES if dataset.get(keyword)] == []


def test_orientation_that_jitters_and_odd_decimals_are_taken(answered: Answered) -> None:
    def jitter(dataset: Dataset, number: int) -> None:
        dataset.ImageOrientationPatient = [1, number * 1e-7, 0, 0, 1, 0]
        dataset.pop("SliceThickness")
        dataset.SpacingBetweenSlices = "-24"

    edit(answered, jitter)
    groups = answer(answered)["seg"].SharedFunctionalGroupsSequence[0]

    assert groups.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    assert groups.PixelMeasuresSequence[0].SliceThickness == 24
    assert groups.PixelMeasuresSequence[0].SpacingBetweenSlices == 24


def test_a_volume_whose_orientation_was_averaged_keeps_its_own(answered: Answered) -> None:
    edit(
        answered,
        lambda dataset, number: setattr(
            dataset, "ImageOrientationPatient", [1, 2e-4 * (number % 3), 0, 0, 1, 0]
        ),
    )
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(2e-4), -np.sin(2e-4)], [np.sin(2e-4), np.cos(2e-4)]]
    affine = answered.volume.affine.copy()
    affine[:3, 1:3] = turn[:3, :3] @ affine[:3, 1:3]
    volume = replace(answered.volume, affine=affine)
    result = make_result(answered.result.labels.array, volume)

    seg = answer(replace(answered, volume=volume, result=result))["seg"]

    plane = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    assert np.allclose(plane.ImageOrientationPatient, [1, 2e-4, 0, -2e-4, 1, 0], atol=1e-7)


def test_long_descriptions_and_other_free_text_do_not_reach_the_result(answered: Answered) -> None:
    edit(answered, lambda dataset, _: setattr(dataset, "SeriesDescription", "x" * 90))

    for dataset in answer(answered).values():
        assert len(dataset.SeriesDescription) <= 64
        assert "x" * 10 not in str(dataset.SeriesDescription)


def test_lossy_compression_is_carried_on_with_method_and_ratio(answered: Answered) -> None:
    edit(answered, lambda dataset, _: setattr(dataset, "LossyImageCompression", "01"))
    seg = answer(answered)["seg"]

    assert seg.LossyImageCompression == "01"
    assert seg.LossyImageCompressionRatio >= 1
    assert seg.LossyImageCompressionMethod


@pytest.mark.parametrize(
    ("given", "name", "written"),
    [
        ("ISO_IR 100", "M\u00fcller^J\u00f6rg", "ISO_IR 100"),
        ("ISO_IR 192", "\u0394\u03b7\u03bc\u03ae\u03c4\u03c1\u03b9\u03bf\u03c2^\u0394", "ISO_IR 192"),
        ("ISO_IR 144", "\u041b\u044e\u043ace\u043c\u0431yp\u0433", "ISO_IR 144"),
        ("GB18030", "Wang^XiaoDong=\u738b^\u5c0f\u4e1c", "GB18030"),
        (
            ["", "ISO 2022 IR 87"],
            "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046",
            "ISO_IR 192",
        ),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=\u6d2a^\u5409\u6d1e=\ud64d^\uae38\ub3d9", "ISO_IR 192"),
        ("", "ASCII^NAME", "ISO_IR 100"),
        ("", "SINGLE", "ISO_IR 100"),
    ],
)
def test_names_survive_their_character_set(
    answered: Answered, given: str | list[str], name: str, written: str
) -> None:
    def rename(dataset: Dataset, _: int) -> None:
        dataset.SpecificCharacterSet = given
        dataset.PatientName = name

    edit(answered, rename)

    for dataset in answer(answered).values():
        assert dataset.SpecificCharacterSet == written
        assert str(dataset.PatientName) == name


def test_an_unknown_character_set_becomes_utf_8(answered: Answered) -> None:
    first = answered.context.sources[0].frames[0].path
    for frame in answered.context.sources[0].frames:
        frame.path.write_bytes(frame.path.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 999"))

    assert read_header(first).SpecificCharacterSet == "ISO_IR 999"
    assert {dataset.SpecificCharacterSet for dataset in answer(answered).values()} == {"ISO_IR 192"}


def test_removed_identity_keeps_its_method(answered: Answered) -> None:
    def remove(dataset: Dataset, _: int) -> None:
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = ["first", "second"]

    edit(answered, remove)

    assert all(
        list(dataset.DeidentificationMethod) == ["first", "second"] for dataset in answer(answered).values()
    )


def test_a_patient_id_that_is_too_long_is_not_shortened() -> None:
    source = Dataset()
    source.add(pydicom.DataElement("PatientID", "LO", "7" * 70, validation_mode=pydicom.config.IGNORE))

    assert repair_identity(source).PatientID == "7" * 70


def test_images_without_a_frame_of_reference_are_refused(answered: Answered) -> None:
    edit(answered, lambda dataset, _: dataset.pop("FrameOfReferenceUID") and None)

    with pytest.raises(StudyRefused) as caught:
        build_answer(answered.context, answered.volume, answered.result, ())

    assert caught.value.code == "frame-of-reference-missing"


def test_slices_that_are_no_frames_are_refused(answered: Answered) -> None:
    source = answered.context.sources[0]
    mosaic = replace(
        source, frames=tuple(replace(frame, path=source.frames[0].path) for frame in source.frames)
    )

    with pytest.raises(StudyRefused) as caught:
        read_source(mosaic)

    assert caught.value.code == "slices-not-frames"


def test_a_source_that_vanished_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(b"not DICOM")
    for path in (tmp_path / "x.dcm", tmp_path / "absent.dcm"):
        with pytest.raises(StudyRefused, match="send the study again"):
            read_header(path)


def test_a_refusal_needs_nothing_but_identity(answered: Answered) -> None:
    def strip(dataset: Dataset, _: int) -> None:
        for keyword in (
            "FrameOfReferenceUID",
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "Rows",
            "PatientSex",
        ):
            dataset.pop(keyword)

    edit(answered, strip)
    context = replace(answered.context, sources=())

    (report,) = build_refusal(
        context, "geometry-missing", "The images have no position.", (), Outcome.REFUSED
    )

    assert read_back(report).PatientID == "SIM-0"


LEADING_ZEROS = "1.2.840.99.007.01"


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_uids_with_leading_zeros_get_the_whole_answer_and_are_carried_letter_by_letter(
    answered: Answered,
) -> None:
    def renumber(dataset: Dataset, number: int) -> None:
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = LEADING_ZEROS, f"{LEADING_ZEROS}.02"
        dataset.FrameOfReferenceUID = f"{LEADING_ZEROS}.00"
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = (
            f"{LEADING_ZEROS}.{number:04d}"
        )

    edit(answered, renumber)
    (source,) = answered.context.sources
    frames = tuple(
        replace(frame, SOPInstanceUID=f"{LEADING_ZEROS}.{number:04d}")
        for number, frame in enumerate(source.frames)
    )
    context = replace(
        answered.context,
        StudyInstanceUID=LEADING_ZEROS,
        sources=(replace(source, SeriesInstanceUID=f"{LEADING_ZEROS}.02", frames=frames),),
    )
    volume = replace(answered.volume, frame_of_reference_uid=f"{LEADING_ZEROS}.00")

    objects = answer(replace(answered, context=context, volume=volume))

    assert set(objects) == {"seg", "sr"}
    evidence = objects["sr"].CurrentRequestedProcedureEvidenceSequence[0]
    named = {
        item.ReferencedSOPInstanceUID
        for series in evidence.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert evidence.StudyInstanceUID == objects["seg"].StudyInstanceUID == LEADING_ZEROS
    assert {frame.SOPInstanceUID for frame in frames} < named
    assert objects["seg"].FrameOfReferenceUID == f"{LEADING_ZEROS}.00"


IDENTIFIERS = (
    "PatientID",
    "AccessionNumber",
    "StudyID",
    "IssuerOfPatientID",
    "PatientName",
    "ReferringPhysicianName",
)


@pytest.mark.parametrize("value", ["4711\\08", "\\4711", "A\\B\\C"])
def test_a_backslash_shortens_no_identifier(answered: Answered, value: str) -> None:
    # Each has its own, so that none can stand in for another.
    values = {keyword: f"{value}{number}" for number, keyword in enumerate(IDENTIFIERS)}

    def rename(dataset: Dataset, _: int) -> None:
        for keyword, text in values.items():
            setattr(dataset, keyword, text)

    edit(answered, rename)

    for dataset in answer(answered).values():
        assert {keyword: list(dataset[keyword].value) for keyword in IDENTIFIERS} == {
            keyword: text.split("\\") for keyword, text in values.items()
        }


def test_text_that_cannot_be_decoded_stays_empty_and_is_said(answered: Answered) -> None:
    edit(answered, lambda dataset, _: setattr(dataset, "SpecificCharacterSet", "ISO_IR 192"))
    for frame in answered.context.sources[0].frames:
        frame.path.write_bytes(frame.path.read_bytes().replace(b"SYNTHETIC", b"SYN\xffHETIC"))

    objects = answer(answered)

    assert {str(dataset.PatientName) for dataset in objects.values()} == {""}
    assert any("PatientName is empty" in text for text in texts_of(objects["sr"]))


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize(
    "sop_class",
    ["1.2.840.10008.5.1.4.1.1.6", "1.3.46.670589.11.0.0.12.1", "1.2.840.10008.5.1.4.1.1.77.2", "1.2.03.4"],
)
def test_a_first_instance_of_a_private_or_retired_class_is_refused_with_the_usual_report(
    answered: Answered, sop_class: str
) -> None:
    def reclass(dataset: Dataset, _: int) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class

    edit(answered, reclass)
    context = replace(answered.context, sources=())

    (result,) = build_refusal(context, "no-usable-series", "There is no T1.", (), Outcome.REFUSED)
    verify_refusal((result,), context)

    evidence = (
        read_back(result)
        .CurrentRequestedProcedureEvidenceSequence[0]
        .ReferencedSeriesSequence[0]
        .ReferencedSOPSequence[0]
    )
    assert evidence.ReferencedSOPClassUID == sop_class
