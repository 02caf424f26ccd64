"""The last gate for segmentations: masks and probabilities, read back, against what the pipeline found, in patient space.

Trusts nothing of the code that built them: it shares no function with seg.py and second_grid.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.records import SourceSeries
from pipeline.geometry import Affine, apply_affine, spacing_mm
from pipeline.records import Array, PipelineResult, Volume

_TOLERANCE_MM = 0.15
"""Largest distance of a SEG voxel from the pipeline's voxel: positions that jitter by 0.1 mm are loaded as one even grid."""
_ON_THE_EDGE = 1e-6


def check_segments(dataset: Dataset, result: PipelineResult) -> None:
    """Refuse segments that are not numbered 1..N, not identified, or more than the lesions."""
    segments = list_segments(dataset)
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


def list_segments(dataset: Dataset) -> list[Dataset]:
    """Return the segments that are lesions; a label map describes its background as segment 0 (PS3.3 C.8.20.4)."""
    is_map = dataset.SegmentationType == "LABELMAP"
    return [item for item in dataset.SegmentSequence if not (is_map and item.SegmentNumber == 0)]


def check_mask(dataset: Dataset, volume: Volume, result: PipelineResult, reference: SourceSeries) -> None:
    """Refuse a mask whose voxels do not lie in the patient where the pipeline's lesions lie."""
    found = _place_segments(dataset, volume, reference)
    if not np.array_equal(found, expected_segments(result.labels.array, len(list_segments(dataset)))):
        raise ResultRejected("the SEG's mask differs from the lesions that were found")


def check_second_mask(dataset: Dataset, second: Volume, link: Affine, result: PipelineResult, source: SourceSeries) -> None:
    """Refuse a mask on the T1 that is not, voxel for voxel, the lesion on the FLAIR at the same place of the head.

    Parameters
    ----------
    link
        4x4 from the reference's mm to the T1's mm.
    """
    found = _place_segments(dataset, second, source)
    wanted = expected_segments(result.labels.array, len(list_segments(dataset)))
    to_index: Affine = np.asarray(np.linalg.inv(result.labels.affine) @ np.linalg.inv(link), dtype=np.float64)
    for number, plane in enumerate(found):
        rows, columns = np.indices(plane.shape)
        there_mm = apply_affine(second.affine, np.stack([np.full_like(rows, number), rows, columns], axis=-1))
        place = apply_affine(to_index, there_mm)
        index = np.rint(place).astype(int)
        inside: Array = np.all((index >= 0) & (index < wanted.shape), axis=-1)
        expected = np.where(inside, wanted[tuple(np.where(inside[..., np.newaxis], index, 0).reshape(-1, 3).T)].reshape(plane.shape), 0)
        # A voxel centre just between two voxels of the reference may take either.
        certain = np.all(np.abs(np.abs(place - index) - 0.5) > _ON_THE_EDGE, axis=-1)
        if ((plane != expected) & certain).any():
            raise ResultRejected("the SEG on the T1 shows other places of the head than the lesions")


def check_probability(dataset: Dataset, volume: Volume, result: PipelineResult, reference: SourceSeries) -> None:
    """Refuse probabilities that differ from the pipeline's by more than their 8 bits, or lie elsewhere."""
    _check_frame_of_reference(dataset, volume)
    largest = int(dataset.MaximumFractionalValue)
    left = np.clip(result.probability.array, 0, 1).astype(np.float64)
    for frame, shared, groups in _walk_frames(dataset):
        index = _locate(frame_affine(shared, groups), np.indices(frame.shape).reshape(2, -1), volume)
        _check_source_frame(groups, index, reference)
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


def _check_frame_of_reference(dataset: Dataset, volume: Volume) -> None:
    if dataset.FrameOfReferenceUID != volume.frame_of_reference_uid:
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
        if dataset.SegmentationType == "FRACTIONAL" and not np.isin(frame, (0, int(dataset.MaximumFractionalValue))).all():
            raise ResultRejected("the SEG says neither yes nor no of a voxel")
        yield find_macro(shared, groups, "SegmentIdentificationSequence").ReferencedSegmentNumber, frame > 0, affine, groups


def _place_segments(dataset: Dataset, volume: Volume, reference: SourceSeries) -> Array:
    """Return the segment numbers on the volume's grid, every voxel placed by its patient coordinates alone."""
    _check_frame_of_reference(dataset, volume)
    found = np.zeros(volume.array.shape, dtype=np.uint16)
    for number, mask, affine, groups in _walk_masks(dataset):
        index = _locate(affine, np.stack(np.nonzero(mask)), volume)
        if found[tuple(index.T)].any():
            raise ResultRejected("two segments overlap")
        found[tuple(index.T)] = number
        if len(index):
            _check_source_frame(groups, index, reference)
    return found


def _locate(affine: Affine, rows_columns: Array, volume: Volume) -> Array:
    """Return the (slice, row, column) of the volume at which pixels (2, n) of a frame lie."""
    points_mm = apply_affine(affine, np.stack([np.zeros_like(rows_columns[0]), *rows_columns], axis=-1))
    to_index: Affine = np.asarray(np.linalg.inv(volume.affine), dtype=np.float64)
    index = np.rint(apply_affine(to_index, points_mm)).astype(int)
    tolerance_mm = min(_TOLERANCE_MM, min(spacing_mm(volume.affine)) / 4)
    if np.abs(apply_affine(volume.affine, index) - points_mm).max(initial=0.0) > tolerance_mm:
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
