"""The gate is shown to fail: each planted fault is one that a bug could make, and each must stop the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pack_bits

from dicomnode.errors import ResultRejected
from dicomnode.results.build import build_answer, encode
from dicomnode.results.records import EncodedResult
from dicomnode.results.verify.content import concept, walk_content
from dicomnode.results.verify.gate import read_back, verify_answer
from dicomnode.results.verify.mask import read_frames
from tests.factories.results import Answered, answered_study, make_plan, make_result

Results = tuple[EncodedResult, ...]


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    return answered_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def results(answered: Answered) -> Results:
    return build_answer(answered.context, answered.volume, answered.result, ())


def verify(answered: Answered, results: Results) -> None:
    verify_answer(results, answered.context, answered.volume, answered.result)


def change(results: Results, kind: str, mutate: Callable[[Dataset], None]) -> Results:
    """Decode one result, plant a fault, encode it again under the same UID."""
    changed = []
    for item in results:
        if item.kind == kind:
            dataset = read_back(item)
            mutate(dataset)
            changed.append(encode(kind, dataset))
        else:
            changed.append(item)
    return tuple(changed)


def repack(dataset: Dataset, frames: np.ndarray) -> None:
    dataset.PixelData = pack_bits(frames.astype(np.uint8))


def flip_left_right(dataset: Dataset) -> None:
    repack(dataset, read_frames(dataset)[:, :, ::-1])


def flip_rows(dataset: Dataset) -> None:
    repack(dataset, read_frames(dataset)[:, ::-1])


def reverse_frames(dataset: Dataset) -> None:
    repack(dataset, read_frames(dataset)[::-1])


def add_one_voxel(dataset: Dataset) -> None:
    frames = read_frames(dataset).copy()
    frames[0, 0, 0] = 1
    repack(dataset, frames)


def planes(dataset: Dataset) -> list[Dataset]:
    return [item.PlanePositionSequence[0] for item in dataset.PerFrameFunctionalGroupsSequence]


def shift_origin_by_a_voxel(dataset: Dataset) -> None:
    for plane in planes(dataset):
        x, y, z = plane.ImagePositionPatient
        plane.ImagePositionPatient = [x + 3, y, z]


def shift_origin_by_half_a_millimetre(dataset: Dataset) -> None:
    for plane in planes(dataset):
        x, y, z = plane.ImagePositionPatient
        plane.ImagePositionPatient = [x, y + 0.5, z]


def shift_by_a_slice(dataset: Dataset) -> None:
    for plane in planes(dataset):
        x, y, z = plane.ImagePositionPatient
        plane.ImagePositionPatient = [x, y, z + 12]


def mirror_orientation(dataset: Dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [
        -1,
        0,
        0,
        0,
        1,
        0,
    ]


def swap_rows_and_columns(dataset: Dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [
        0,
        1,
        0,
        1,
        0,
        0,
    ]


def wrong_spacing(dataset: Dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [3, 3.01]


def swap_segments(dataset: Dataset) -> None:
    for item in dataset.PerFrameFunctionalGroupsSequence:
        identification = item.SegmentIdentificationSequence[0]
        identification.ReferencedSegmentNumber = 3 - identification.ReferencedSegmentNumber


def drop_a_frame(dataset: Dataset) -> None:
    frames = read_frames(dataset)[:-1]
    dataset.NumberOfFrames = len(frames)
    dataset.PerFrameFunctionalGroupsSequence = list(dataset.PerFrameFunctionalGroupsSequence)[:-1]
    repack(dataset, frames)


def swap_two_planes(dataset: Dataset) -> None:
    first, second = planes(dataset)[:2]
    first.ImagePositionPatient, second.ImagePositionPatient = (
        second.ImagePositionPatient,
        first.ImagePositionPatient,
    )


def other_source_image(dataset: Dataset) -> None:
    groups = dataset.PerFrameFunctionalGroupsSequence
    images = [item.DerivationImageSequence[0].SourceImageSequence[0] for item in groups]
    images[0].ReferencedSOPInstanceUID = images[1].ReferencedSOPInstanceUID


def no_source_image(dataset: Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence = []


def put(keyword: str, value: object) -> Callable[[Dataset], None]:
    def apply(dataset: Dataset) -> None:
        setattr(dataset, keyword, value)

    apply.__name__ = f"{keyword}={value}"
    return apply


def same_tracking_uid(dataset: Dataset) -> None:
    dataset.SegmentSequence[1].TrackingUID = dataset.SegmentSequence[0].TrackingUID


def other_tracking_uid(dataset: Dataset) -> None:
    dataset.SegmentSequence[0].TrackingUID = "1.2.3.4"


def other_algorithm(dataset: Dataset) -> None:
    dataset.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion = "9"


def without(*path: str) -> Callable[[Dataset], None]:
    """Return what deletes the last keyword from the first item of each sequence before it."""

    def apply(dataset: Dataset) -> None:
        for keyword in path[:-1]:
            dataset = dataset[keyword].value[0]
        delattr(dataset, path[-1])

    apply.__name__ = ".".join(path)
    return apply


SEG_FAULTS = [
    (without("SegmentSequence", "SegmentAlgorithmType"), "SegmentSequence has no SegmentAlgorithmType"),
    (
        without("SegmentSequence", "SegmentedPropertyTypeCodeSequence", "CodeValue"),
        "SegmentedPropertyTypeCodeSequence has no CodeValue",
    ),
    (without("SegmentSequence", "SegmentedPropertyTypeCodeSequence", "CodeMeaning"), "has no CodeMeaning"),
    (
        without("PerFrameFunctionalGroupsSequence", "FrameContentSequence", "DimensionIndexValues"),
        "has no DimensionIndexValues",
    ),
    (
        without("ReferencedSeriesSequence", "SeriesInstanceUID"),
        "ReferencedSeriesSequence has no SeriesInstanceUID",
    ),
    (flip_left_right, "mask differs|another source|spans"),
    (flip_rows, "mask differs"),
    (reverse_frames, "mask differs"),
    (add_one_voxel, "mask differs"),
    (shift_origin_by_a_voxel, "beside the plane"),
    (shift_origin_by_half_a_millimetre, "beside the voxels"),
    (shift_by_a_slice, "another source image"),
    (mirror_orientation, "outside|beside|mask differs"),
    (swap_rows_and_columns, "another orientation"),
    (wrong_spacing, "beside the voxels"),
    (swap_segments, "mask differs"),
    (drop_a_frame, "mask differs"),
    (swap_two_planes, "another source image"),
    (other_source_image, "another source image"),
    (no_source_image, "names no source image"),
    (same_tracking_uid, "share a tracking UID"),
    (other_tracking_uid, "tracking UIDs differ"),
    (other_algorithm, "another algorithm"),
    (put("FrameOfReferenceUID", "1.2.3"), "frame of reference"),
    (put("StudyInstanceUID", "1.2.3"), "another study"),
    (put("PatientID", "SOMEBODY-ELSE"), "PatientID differs"),
    (put("PatientName", "ELSE^SOMEBODY"), "PatientName differs"),
    (put("AccessionNumber", "X"), "AccessionNumber differs"),
    (put("ContentLabel", ""), "no ContentLabel"),
    (put("SegmentationType", "FRACTIONAL"), "SegmentationType"),
]


@pytest.mark.parametrize("kind", ["seg", "sr"])
def test_what_is_decoded_and_encoded_again_without_a_fault_passes(
    answered: Answered, results: Results, kind: str
) -> None:
    verify(answered, change(results, kind, lambda _: None))


@pytest.mark.parametrize(("fault", "reason"), SEG_FAULTS, ids=[fault.__name__ for fault, _ in SEG_FAULTS])
def test_a_planted_fault_in_the_seg_is_caught(
    answered: Answered, results: Results, fault: Callable[[Dataset], None], reason: str
) -> None:
    with pytest.raises(ResultRejected, match=reason):
        verify(answered, change(results, "seg", fault))


def items(report: Dataset, value_type: str) -> list[Dataset]:
    return [item for item in walk_content(report) if item.ValueType == value_type]


def number_of(report: Dataset, code: str, place: int) -> Dataset:
    measured: Dataset = [item for item in items(report, "NUM") if concept(item) == code][
        place
    ].MeasuredValueSequence[0]
    return measured


def halve_a_volume(report: Dataset) -> None:
    number_of(report, "118565006", -3).NumericValue = "1.08"


def stretch_a_line(report: Dataset) -> None:
    number_of(report, "103339001", -2).NumericValue = "99"


def swap_line_coordinates(report: Dataset) -> None:
    line = items(report, "SCOORD")[-1]
    first, second, third, fourth = line.GraphicData
    line.GraphicData = [second, first, fourth, third]


def line_on_another_slice(report: Dataset) -> None:
    lines = items(report, "SCOORD")
    images = [line.ContentSequence[0].ReferencedSOPSequence[0] for line in lines]
    images[-1].ReferencedSOPInstanceUID = images[0].ReferencedSOPInstanceUID


def swap_segment_references(report: Dataset) -> None:
    for item in items(report, "IMAGE"):
        if concept(item) == "121191":
            reference = item.ReferencedSOPSequence[0]
            reference.ReferencedSegmentNumber = 3 - reference.ReferencedSegmentNumber


def point_elsewhere(report: Dataset) -> None:
    items(report, "IMAGE")[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def forget_evidence(report: Dataset) -> None:
    del report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[-1]


def wrong_relationship(report: Dataset) -> None:
    items(report, "SCOORD")[0].ContentSequence[0].RelationshipType = "INFERRED FROM"


def lose_the_last_line(report: Dataset) -> None:
    measurements = next(item for item in walk_content(report) if concept(item) == "126010")
    del measurements.ContentSequence[-1]


SR_FAULTS = [
    (halve_a_volume, "the report says"),
    (stretch_a_line, "not as long"),
    (swap_line_coordinates, "outside its lesion"),
    (line_on_another_slice, "outside its lesion"),
    (swap_segment_references, "the report says|tracking UIDs"),
    (point_elsewhere, "not of this study"),
    (forget_evidence, "evidence differs"),
    (wrong_relationship, "SELECTED FROM"),
    (lose_the_last_line, "no line"),
    (put("VerificationFlag", "VERIFIED"), "VerificationFlag"),
    (put("StudyInstanceUID", "1.2.3"), "another study"),
    (put("PatientBirthDate", "19991231"), "PatientBirthDate"),
]


@pytest.mark.parametrize(("fault", "reason"), SR_FAULTS, ids=[fault.__name__ for fault, _ in SR_FAULTS])
def test_a_planted_fault_in_the_report_is_caught(
    answered: Answered, results: Results, fault: Callable[[Dataset], None], reason: str
) -> None:
    with pytest.raises(ResultRejected, match=reason):
        verify(answered, change(results, "sr", fault))


def test_a_result_under_another_label_is_caught(answered: Answered, results: Results) -> None:
    seg, sr = results

    for keyword in ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID"):
        with pytest.raises(ResultRejected, match=keyword):
            verify(answered, (replace(seg, **{keyword: "1.2.3"}), sr))


def test_a_result_that_points_to_another_series_than_was_segmented_is_caught(
    answered: Answered, results: Results
) -> None:
    with pytest.raises(ResultRejected, match="lies on the t1"):
        verify_answer(
            results, answered.context, answered.volume, replace(answered.result, plan=make_plan("t1"))
        )


def test_missing_surplus_and_broken_results_are_caught(answered: Answered, results: Results) -> None:
    seg, sr = results

    for faulty in ((sr,), (seg,), (seg, seg, sr)):
        with pytest.raises(ResultRejected, match="expected results"):
            verify(answered, faulty)
    with pytest.raises(ResultRejected):
        verify(answered, (replace(seg, data=seg.data[: len(seg.data) // 2]), sr))
    with pytest.raises(ResultRejected, match="cannot be read back"):
        verify(answered, (replace(seg, data=b"nothing"), sr))


def test_patient_data_stays_out_of_the_reason(answered: Answered, results: Results) -> None:
    with pytest.raises(ResultRejected) as caught:
        verify(answered, change(results, "seg", put("PatientName", "ELSE^SOMEBODY")))

    assert "ELSE" not in str(caught.value)
    assert "SYNTHETIC" not in str(caught.value)


def test_a_negative_report_that_counts_a_lesion_is_caught(answered: Answered) -> None:
    result = make_result(np.zeros_like(answered.result.labels.array), answered.volume)
    negative = replace(answered, result=result)
    results = build_answer(answered.context, answered.volume, result, ())
    verify(negative, results)

    def count_one(report: Dataset) -> None:
        number_of(report, "246206008", 0).NumericValue = "1"

    with pytest.raises(ResultRejected, match="negative report"):
        verify(negative, change(results, "sr", count_one))
