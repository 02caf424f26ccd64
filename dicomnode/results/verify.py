"""The last gate: every result is read back from its bytes and compared with what the pipeline found, in patient space.

Rules for this file:
1. It trusts nothing of the code that built the results: it reads bytes with pydicom and shares no function with seg.py or sr.py.
2. Any doubt raises `ResultRejected`; nothing is corrected here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian, SegmentationStorage

from dicomnode.errors import ResultRejected
from dicomnode.records import SourceSeries
from dicomnode.results.headers import read_header, repair_identity
from dicomnode.results.verify_report import check_report
from pipeline.geometry import Affine, apply_affine, spacing_mm
from pipeline.records import Array, PipelineResult, Volume

_TYPE_1 = {
    "seg": (
        *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "ContentDate", "ContentTime"),
        *("ContentLabel", "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "SegmentSequence"),
        *("DimensionIndexSequence", "DimensionOrganizationSequence", "ReferencedSeriesSequence", "SharedFunctionalGroupsSequence"),
        *("PerFrameFunctionalGroupsSequence", "ContributingEquipmentSequence", "LossyImageCompression"),
    ),
    "sr": (
        *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "ContentDate", "ContentTime", "Manufacturer"),
        *("ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "ContentSequence", "ConceptNameCodeSequence"),
        *("CurrentRequestedProcedureEvidenceSequence", "ContributingEquipmentSequence"),
    ),
}
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "seg": {
        "Modality": "SEG",
        "SOPClassUID": SegmentationStorage,
        "SegmentationType": "BINARY",
        "BitsAllocated": 1,
        "BodyPartExamined": "BRAIN",
    },
    "sr": {
        "Modality": "SR",
        "SOPClassUID": Comprehensive3DSRStorage,
        "CompletionFlag": "COMPLETE",
        "VerificationFlag": "UNVERIFIED",
        "PreliminaryFlag": "PRELIMINARY",
    },
}
_IDENTITY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime")
_TOLERANCE_MM = 0.15
"""Largest distance of a SEG voxel from the pipeline's voxel: positions that jitter by 0.1 mm are loaded as one even grid."""


class Encoded(Protocol):
    """What is verified: `build.EncodedResult`."""

    @property
    def kind(self) -> str:
        """Return "seg" or "sr"."""

    @property
    def data(self) -> bytes:
        """Return the DICOM file."""

    @property
    def SOPInstanceUID(self) -> str:  # noqa: N802 (the standard's keyword)
        """Return the UID under which it will be delivered."""

    @property
    def SOPClassUID(self) -> str:  # noqa: N802 (the standard's keyword)
        """Return its class."""

    @property
    def SeriesInstanceUID(self) -> str:  # noqa: N802 (the standard's keyword)
        """Return its series."""


def verify_answer(results: Sequence[Encoded], volume: Volume, result: PipelineResult, sources: Sequence[SourceSeries]) -> None:
    """Prove that the encoded results say what the pipeline found, where it found it.

    Parameters
    ----------
    results
        What `build_answer` made: SEG and SR, or the SR alone when no lesion was found.
    volume
        The reference volume.
    sources
        The series that were used, reference first.

    Raises
    ------
    ResultRejected
        With the first difference that was seen.
    """
    expected_kinds = ["seg", "sr"] if result.lesions else ["sr"]
    if sorted(item.kind for item in results) != expected_kinds:
        raise ResultRejected(f"expected results {expected_kinds}, got {sorted(item.kind for item in results)}")
    if sources[0].role != result.reference_role:
        raise ResultRejected(f"the result lies on the {result.reference_role}, but is to point to the {sources[0].role}")
    datasets = {item.kind: read_back(item) for item in results}
    identity = read_header(sources[0].frames[0].path)
    for kind, dataset in datasets.items():
        check_attributes(kind, dataset)
        check_identity(dataset, identity)
    segmentation = datasets.get("seg")
    if segmentation is not None:
        check_segments(segmentation, result)
        check_mask(segmentation, volume, result, sources[0])
    check_report(datasets["sr"], segmentation, result, sources)


def verify_refusal(results: Sequence[Encoded], template: Path) -> None:
    """Prove that the report that says why there is no segmentation is whole and belongs to the study of `template`.

    Raises
    ------
    ResultRejected
        With the first difference that was seen.
    """
    if [item.kind for item in results] != ["sr"]:
        raise ResultRejected(f"expected one report, got {[item.kind for item in results]}")
    report = read_back(results[0])
    check_attributes("sr", report)
    check_identity(report, read_header(template))


def read_back(item: Encoded) -> Dataset:
    """Read a result from its bytes, whole, and hold it against its own label."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(item.data))
        dataset.walk(lambda _, element: element.value)
    except (InvalidDicomError, ValueError, EOFError) as problem:
        raise ResultRejected(f"the {item.kind} cannot be read back: {problem}") from problem
    if dataset.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
        raise ResultRejected(f"the {item.kind} is not Explicit VR Little Endian")
    for keyword in ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID"):
        if dataset.get(keyword) != getattr(item, keyword):
            raise ResultRejected(f"the {item.kind} has another {keyword} than it is labelled with")
    meta = dataset.file_meta
    if (meta.MediaStorageSOPInstanceUID, meta.MediaStorageSOPClassUID) != (dataset.SOPInstanceUID, dataset.SOPClassUID):
        raise ResultRejected(f"the {item.kind}'s file meta information names another instance")
    return dataset


def check_attributes(kind: str, dataset: Dataset) -> None:
    """Refuse a result that lacks a required value or has another than the fixed one."""
    for keyword in _TYPE_1[kind]:
        if dataset.get(keyword) in (None, "", []):
            raise ResultRejected(f"the {kind} has no {keyword}")
    for keyword, value in _FIXED[kind].items():
        if dataset.get(keyword) != value:
            raise ResultRejected(f"the {kind}'s {keyword} is {dataset.get(keyword)!r}, not {value!r}")


def check_identity(dataset: Dataset, source: Dataset) -> None:
    """Refuse a result that belongs to another study or patient than its source."""
    if dataset.StudyInstanceUID != source.StudyInstanceUID:
        raise ResultRejected("the result belongs to another study than its source")
    wanted = repair_identity(source)
    for keyword in _IDENTITY:
        if str(dataset.get(keyword) or "") != str(wanted.get(keyword) or ""):
            # Which element, never its value: patient data stays out of messages.
            raise ResultRejected(f"the result's {keyword} differs from its source's")


def check_segments(dataset: Dataset, result: PipelineResult) -> None:
    """Refuse segments that are not numbered 1..N, not identified, or more than the lesions."""
    segments = dataset.SegmentSequence
    if [item.SegmentNumber for item in segments] != list(range(1, len(segments) + 1)):
        raise ResultRejected("the segments are not numbered from 1")
    if len(segments) > len(result.lesions):
        raise ResultRejected(f"{len(segments)} segments for {len(result.lesions)} lesions")
    if len({item.TrackingUID for item in segments}) != len(segments):
        raise ResultRejected("two segments share a tracking UID")
    for item in segments:
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        if (algorithm.AlgorithmName, algorithm.AlgorithmVersion) != (result.models[0].name, result.models[0].version):
            raise ResultRejected("a segment names another algorithm than the one that ran")


def check_mask(dataset: Dataset, volume: Volume, result: PipelineResult, reference: SourceSeries) -> None:
    """Refuse a mask whose voxels do not lie in the patient where the pipeline's lesions lie."""
    if dataset.FrameOfReferenceUID != volume.frame_of_reference_uid:
        raise ResultRejected("the SEG has another frame of reference than the image that was segmented")
    found = np.zeros(volume.array.shape, dtype=np.uint16)
    to_index: Affine = np.asarray(np.linalg.inv(volume.affine), dtype=np.float64)
    tolerance_mm = min(_TOLERANCE_MM, min(spacing_mm(volume.affine)) / 4)
    for frame, groups in zip(read_frames(dataset), dataset.PerFrameFunctionalGroupsSequence, strict=True):
        shared = dataset.SharedFunctionalGroupsSequence[0]
        affine = frame_affine(shared, groups)
        rows, columns = np.nonzero(frame)
        points_mm = apply_affine(affine, np.stack([np.zeros_like(rows), rows, columns], axis=-1))
        index = np.rint(apply_affine(to_index, points_mm)).astype(int)
        if np.abs(apply_affine(volume.affine, index) - points_mm).max(initial=0.0) > tolerance_mm:
            raise ResultRejected("the SEG's voxels lie beside the voxels of the image")
        if (index < 0).any() or (index >= volume.array.shape).any():
            raise ResultRejected("the SEG reaches outside the image")
        if found[tuple(index.T)].any():
            raise ResultRejected("two segments overlap")
        found[tuple(index.T)] = find_macro(shared, groups, "SegmentIdentificationSequence").ReferencedSegmentNumber
        _check_source_frame(groups, index, reference)
    if not np.array_equal(found, expected_segments(result.labels.array, len(dataset.SegmentSequence))):
        raise ResultRejected("the SEG's mask differs from the lesions that were found")


def expected_segments(labels: Array, count: int) -> Array:
    """Return the label map with every lesion beyond `count` moved into the last segment."""
    moved: Array = np.minimum(labels, count)
    return moved


def read_frames(dataset: Dataset) -> Array:
    """Return (frame, row, column) of a SEG, also when it has one frame."""
    frames: Array = dataset.pixel_array
    return frames.reshape(int(dataset.NumberOfFrames), int(dataset.Rows), int(dataset.Columns))


def find_macro(shared: Dataset, groups: Dataset, keyword: str) -> Dataset:
    """Return a functional group of one frame: its own, or the one that all frames share (PS3.3 C.7.6.16)."""
    for item in (groups, shared):
        if keyword in item:
            macro: Dataset = item[keyword].value[0]
            return macro
    raise ResultRejected(f"a SEG frame has no {keyword}")


def frame_affine(shared: Dataset, groups: Dataset) -> Affine:
    """Return (any, row, column) to LPS mm of one frame (PS3.3 C.7.6.2.1.1)."""
    plane = find_macro(shared, groups, "PlaneOrientationSequence")
    orientation = np.array([float(value) for value in plane.ImageOrientationPatient])
    row_spacing, column_spacing = (float(value) for value in find_macro(shared, groups, "PixelMeasuresSequence").PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = np.cross(orientation[:3], orientation[3:])
    affine[:3, 1] = orientation[3:] * row_spacing
    affine[:3, 2] = orientation[:3] * column_spacing
    affine[:3, 3] = [float(value) for value in find_macro(shared, groups, "PlanePositionSequence").ImagePositionPatient]
    return affine


def _check_source_frame(groups: Dataset, index: Array, reference: SourceSeries) -> None:
    """Hold the frame's own word on its source image against the slice in which its voxels lie."""
    if len(slices := np.unique(index[:, 0])) != 1:
        raise ResultRejected("a SEG frame spans several slices of the image")
    frame = reference.frames[int(slices[0])]
    try:
        image = groups.DerivationImageSequence[0].SourceImageSequence[0]
    except (AttributeError, IndexError):
        raise ResultRejected("a SEG frame names no source image") from None
    number = image.get("ReferencedFrameNumber") or 1
    if image.ReferencedSOPInstanceUID != frame.SOPInstanceUID or int(number) != frame.frame_number:
        raise ResultRejected("a SEG frame names another source image than the one on which it lies")
