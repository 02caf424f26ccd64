"""The last gate for segmentations.

Masks and probabilities, read back, against the pipeline's, in patient space.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.records import SourceSeries
from dicomnode.results.verify.content import code_of
from dicomnode.results.verify.expected_codes import ABNORMAL_STRUCTURE, BRAIN, LESION_OF_BRAIN, SIDES
from dicomnode.results.verify.source import SourceStudy
from dicomnode.results.verify.words import check_label
from pipeline.geometry import Affine, apply_affine, spacing_mm
from pipeline.records import Array, Lesion, PipelineResult, Volume

_TOLERANCE_MM = 0.15
"""Largest distance of a SEG voxel from the pipeline's voxel.

Positions that jitter by 0.1 mm are loaded as one even grid.
"""
_UNEVEN = 0.05
"""Share of the slice spacing by which a slice may lie off the even grid that was made of the series."""
_SAME_POSITION_MM = 0.01
_SAME_DIRECTION = 2e-3
"""Largest difference of a direction cosine: orientations that jitter are averaged."""
_SAME_SPACING = 1e-4
_ON_THE_EDGE = 1e-6


def check_segments(dataset: Dataset, result: PipelineResult) -> None:
    """Refuse segments that are not numbered 1..N, not identified, not coded as what they are.

    Their side must be the one that the mask lies on.
    """
    segments = list_segments(dataset)
    if [item.SegmentNumber for item in segments] != list(range(1, len(segments) + 1)):
        raise ResultRejected("the segments are not numbered from 1")
    if len(segments) > len(result.lesions):
        raise ResultRejected(
            f"there are more segments ({len(segments)}) than lesions ({len(result.lesions)})"
        )
    tracking_uids = {str(item.get("TrackingUID") or "") for item in segments}
    if "" in tracking_uids or not all(item.get("TrackingID") for item in segments):
        raise ResultRejected("a segment has no tracking UID")
    if len(tracking_uids) != len(segments):
        raise ResultRejected("two segments share a tracking UID")
    by_number = lesions_of_segments(len(segments), result)
    for item in segments:
        _check_segment(item, by_number[int(item.SegmentNumber)], result)


def _check_segment(item: Dataset, lesions: Sequence[Lesion], result: PipelineResult) -> None:
    algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
    if (algorithm.AlgorithmName, algorithm.AlgorithmVersion) != (
        result.models[0].name,
        result.models[0].version,
    ):
        raise ResultRejected("a segment names another algorithm than the one that ran")
    property_type = item.SegmentedPropertyTypeCodeSequence[0]
    stated = (
        code_of(item.SegmentedPropertyCategoryCodeSequence[0]),
        code_of(property_type),
        code_of(item.AnatomicRegionSequence[0]),
    )
    if stated != (ABNORMAL_STRUCTURE, LESION_OF_BRAIN, BRAIN):
        raise ResultRejected("a segment is coded as something else than a lesion of the brain")
    sides = [
        str(side.CodeValue) for side in property_type.get("SegmentedPropertyTypeModifierCodeSequence") or ()
    ]
    if sides != [side for side in (side_of(lesions),) if side]:
        raise ResultRejected("a segment's laterality differs from the lesion's")
    if len(lesions) == 1:
        check_label(str(item.SegmentLabel), lesions[0], result)
    changes = result.follow_up.changes if result.follow_up else ()
    earlier = {
        change.tracking_uid
        for change in changes
        if len(lesions) == 1 and change.label == lesions[0].label and change.tracking_uid
    }
    if earlier and str(item.TrackingUID) not in earlier:
        raise ResultRejected("a lesion of an earlier study has lost its tracking UID")


def lesions_of_segments(count: int, result: PipelineResult) -> Mapping[int, Sequence[Lesion]]:
    """Return segment number to lesions: one each in the order of their labels.

    The last of `count` may stand for all that are left.
    """
    single = {number: (lesion,) for number, lesion in enumerate(result.lesions[: count - 1], start=1)}
    return {**single, count: result.lesions[count - 1 :]}


def side_of(lesions: Sequence[Lesion]) -> str:
    """Return the code of the side of these lesions (CID 244); empty where one side is not known."""
    sides = {lesion.laterality for lesion in lesions}
    if len(sides) > 1:
        return "" if "unknown" in sides else SIDES["both"]
    return SIDES.get(sides.pop(), "")


def list_segments(dataset: Dataset) -> list[Dataset]:
    """Return the segments that are lesions.

    A label map describes its background as segment 0 (PS3.3 C.8.20.4).
    """
    is_map = dataset.SegmentationType == "LABELMAP"
    return [item for item in dataset.SegmentSequence if not (is_map and item.SegmentNumber == 0)]


def check_mask(
    dataset: Dataset, volume: Volume, result: PipelineResult, reference: SourceSeries, source: SourceStudy
) -> None:
    """Refuse a mask whose voxels do not lie in the patient where the pipeline's lesions lie."""
    placed = _place_segments(dataset, volume, reference, source)
    if not np.array_equal(placed, expected_segments(result.labels.array, len(list_segments(dataset)))):
        raise ResultRejected("the SEG's mask differs from the lesions that were found")


def check_second_mask(
    dataset: Dataset,
    second: Volume,
    link: Affine,
    result: PipelineResult,
    series: SourceSeries,
    source: SourceStudy,
) -> None:
    """Refuse a mask on the T1 that is not, voxel for voxel.

    The lesion on the FLAIR at the same place of the head.

    Parameters
    ----------
    link
        4x4 from the reference's mm to the T1's mm.
    """
    placed = _place_segments(dataset, second, series, source)
    labels = expected_segments(result.labels.array, len(list_segments(dataset)))
    to_index: Affine = np.asarray(np.linalg.inv(result.labels.affine) @ np.linalg.inv(link), dtype=np.float64)
    for number, plane in enumerate(placed):
        rows, columns = np.indices(plane.shape)
        there_mm = apply_affine(second.affine, np.stack([np.full_like(rows, number), rows, columns], axis=-1))
        exact = apply_affine(to_index, there_mm)
        index = np.rint(exact).astype(int)
        inside: Array = np.all((index >= 0) & (index < labels.shape), axis=-1)
        expected = np.where(
            inside,
            labels[tuple(np.where(inside[..., np.newaxis], index, 0).reshape(-1, 3).T)].reshape(plane.shape),
            0,
        )
        # A voxel centre just between two voxels of the reference may take either.
        certain = np.all(np.abs(np.abs(exact - index) - 0.5) > _ON_THE_EDGE, axis=-1)
        if ((plane != expected) & certain).any():
            raise ResultRejected("the SEG on the T1 shows other places of the head than the lesions")


def check_probability(
    dataset: Dataset, volume: Volume, result: PipelineResult, reference: SourceSeries, source: SourceStudy
) -> None:
    """Refuse probabilities that differ from the pipeline's by more than their 8 bits, or lie elsewhere."""
    _check_frame_of_reference(dataset, volume, reference, source)
    largest = int(dataset.MaximumFractionalValue)
    left = np.clip(result.probability.array, 0, 1).astype(np.float64)
    for frame, shared, groups in _walk_frames(dataset):
        affine = frame_affine(shared, groups)
        index = _locate(affine, np.indices(frame.shape).reshape(2, -1), volume)
        _check_source_frame(groups, affine, index, reference, source)
        left[tuple(index.T)] -= frame.ravel() / largest
    if np.abs(left).max() > 0.5 / largest + 1e-6:
        raise ResultRejected("the SEG's probabilities differ from those that were found")


def expected_segments(labels: Array, count: int) -> Array:
    """Return the label map with every lesion beyond `count` moved into the last segment."""
    moved: Array = np.minimum(labels, count)
    return moved


def read_frames(dataset: Dataset) -> Array:
    """Return (frame, row, column) of a SEG, also when it has one frame."""
    frames: Array = dataset.pixel_array
    return frames.reshape(int(dataset.NumberOfFrames), int(dataset.Rows), int(dataset.Columns))


def _check_frame_of_reference(
    dataset: Dataset, volume: Volume, reference: SourceSeries, source: SourceStudy
) -> None:
    of_images = {source.instances[frame.SOPInstanceUID].FrameOfReferenceUID for frame in reference.frames}
    if {str(dataset.FrameOfReferenceUID), volume.frame_of_reference_uid} != of_images:
        raise ResultRejected("the SEG has another frame of reference than the image that was segmented")


def _walk_frames(dataset: Dataset) -> Iterator[tuple[Array, Dataset, Dataset]]:
    """Give each frame with the functional groups that all frames share, and its own."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame, groups in zip(read_frames(dataset), dataset.PerFrameFunctionalGroupsSequence, strict=True):
        yield frame, shared, groups


def _walk_masks(dataset: Dataset) -> Iterator[tuple[int, Array, Affine, Dataset]]:
    """Give (segment number, mask, affine, own functional groups) of every frame, whatever the encoding."""
    for frame, shared, groups in _walk_frames(dataset):
        affine = frame_affine(shared, groups)
        if dataset.SegmentationType == "LABELMAP":
            for number in np.unique(frame[frame > 0]):
                yield int(number), frame == number, affine, groups
            continue
        if (
            dataset.SegmentationType == "FRACTIONAL"
            and not np.isin(frame, (0, int(dataset.MaximumFractionalValue))).all()
        ):
            raise ResultRejected("the SEG says neither yes nor no of a voxel")
        yield (
            find_macro(shared, groups, "SegmentIdentificationSequence").ReferencedSegmentNumber,
            frame > 0,
            affine,
            groups,
        )


def _place_segments(dataset: Dataset, volume: Volume, reference: SourceSeries, source: SourceStudy) -> Array:
    """Return the segment numbers on the volume's grid.

    Every voxel is placed by its patient coordinates alone.
    """
    _check_frame_of_reference(dataset, volume, reference, source)
    placed = np.zeros(volume.array.shape, dtype=np.uint16)
    for number, mask, affine, groups in _walk_masks(dataset):
        index = _locate(affine, np.stack(np.nonzero(mask)), volume)
        if placed[tuple(index.T)].any():
            raise ResultRejected("two segments overlap")
        placed[tuple(index.T)] = number
        if len(index):
            _check_source_frame(groups, affine, index, reference, source)
    return placed


def _locate(affine: Affine, rows_columns: Array, volume: Volume) -> Array:
    """Return the (slice, row, column) of the volume at which pixels (2, n) of a frame lie."""
    points_mm = apply_affine(affine, np.stack([np.zeros_like(rows_columns[0]), *rows_columns], axis=-1))
    to_index: Affine = np.asarray(np.linalg.inv(volume.affine), dtype=np.float64)
    index = np.rint(apply_affine(to_index, points_mm)).astype(int)
    apart_mm = apply_affine(volume.affine, index) - points_mm
    # Along the normal, slices may lie as unevenly as the source's own do.
    normal = np.cross(volume.affine[:3, 1], volume.affine[:3, 2])
    along_mm = np.abs(apart_mm @ (normal / np.linalg.norm(normal)))
    in_plane_mm = np.sqrt(np.clip((apart_mm**2).sum(axis=-1) - along_mm**2, 0, None))
    slice_mm, row_mm, column_mm = spacing_mm(volume.affine)
    limits_mm = (
        min(_TOLERANCE_MM, min(row_mm, column_mm) / 4),
        min(_TOLERANCE_MM + _UNEVEN * slice_mm, slice_mm / 4),
    )
    if in_plane_mm.max(initial=0.0) > limits_mm[0] or along_mm.max(initial=0.0) > limits_mm[1]:
        raise ResultRejected("the SEG's voxels lie beside the voxels of the image")
    if (index < 0).any() or (index >= volume.array.shape).any():
        raise ResultRejected("the SEG reaches outside the image")
    located: Array = index
    return located


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
    row_spacing, column_spacing = (
        float(value) for value in find_macro(shared, groups, "PixelMeasuresSequence").PixelSpacing
    )
    affine = np.eye(4)
    affine[:3, 0] = np.cross(orientation[:3], orientation[3:])
    affine[:3, 1] = orientation[3:] * row_spacing
    affine[:3, 2] = orientation[:3] * column_spacing
    affine[:3, 3] = [
        float(value) for value in find_macro(shared, groups, "PlanePositionSequence").ImagePositionPatient
    ]
    return affine


def _check_source_frame(
    groups: Dataset, affine: Affine, index: Array, reference: SourceSeries, source: SourceStudy
) -> None:
    """Hold a frame against the image that it names.

    The slice in which its voxels lie, and the plane in the image's own header.
    """
    if len(slices := np.unique(index[:, 0])) != 1:
        raise ResultRejected("a SEG frame spans several slices of the image")
    frame = reference.frames[int(slices[0])]
    images = [
        image
        for item in groups.get("DerivationImageSequence") or ()
        for image in item.get("SourceImageSequence") or ()
    ]
    if not images:
        raise ResultRejected("a SEG frame names no source image")
    number = images[0].get("ReferencedFrameNumber") or 1
    if images[0].ReferencedSOPInstanceUID != frame.SOPInstanceUID or int(number) != frame.frame_number:
        raise ResultRejected("a SEG frame names another source image than the one on which it lies")
    planes = source.instances[frame.SOPInstanceUID].planes
    if len(planes) < frame.frame_number:
        raise ResultRejected("a source image has no geometry to hold the SEG against")
    plane = planes[frame.frame_number - 1]
    axes = np.stack(
        [affine[:3, 2] / np.linalg.norm(affine[:3, 2]), affine[:3, 1] / np.linalg.norm(affine[:3, 1])]
    )
    spacing = np.linalg.norm(affine[:3, 1:3], axis=0)
    if np.abs(affine[:3, 3] - plane.position).max() > _SAME_POSITION_MM:
        raise ResultRejected("a SEG frame lies beside the plane that its source image states")
    if (
        np.abs(axes.ravel() - plane.orientation).max() > _SAME_DIRECTION
        or np.abs(spacing / plane.spacing - 1).max() > _SAME_SPACING
    ):
        raise ResultRejected(
            "a SEG frame has another orientation or pixel spacing than its source image states"
        )
