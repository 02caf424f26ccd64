"""Geometry of repaired headers: one orientation, spacings that are there, the source's own positions."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from dicomnode.errors import ResultRejected
from pipeline.records import Volume

_SAME_DIRECTION = 1e-6
_FUNCTIONAL_GROUPS = frozenset({"SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"})


def take_frame(header: Dataset, frame_number: int) -> Dataset:
    """Return a multi-frame header with the geometry of one frame at the top level.

    As a single-frame image has it.
    """
    if "PerFrameFunctionalGroupsSequence" not in header:
        return header
    copied = Dataset()
    copied.file_meta = header.file_meta
    copied.update({element.tag: element for element in header if element.keyword not in _FUNCTIONAL_GROUPS})
    frame = header.PerFrameFunctionalGroupsSequence[frame_number - 1]
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for keyword in ("PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence"):
        copied.update(_macro(frame, shared, keyword))
    return copied


def repair_geometry(headers: Sequence[Dataset], raw: Sequence[Dataset], volume: Volume | None) -> None:
    """Give every slice the same orientation, and spacings that are there; positions stay the source's."""
    spacing = None if volume is None else _slice_spacing(volume)
    orientation = _orientation(raw[0], volume)
    for header, source in zip(headers, raw, strict=True):
        if "PerFrameFunctionalGroupsSequence" in source:
            _repair_multiframe(header, source, spacing, orientation)
            continue
        try:
            header.ImageOrientationPatient = _decimals(orientation or raw[0].ImageOrientationPatient)
            header.ImagePositionPatient = _decimals(source.ImagePositionPatient)
            header.PixelSpacing = _decimals(raw[0].PixelSpacing)
        except AttributeError as missing:
            raise ResultRejected(f"a source image lost its geometry: {missing}") from missing
        thickness = source.get("SliceThickness") or spacing
        header.SliceThickness = None if thickness is None else _decimals([thickness])[0]
        if spacing is not None:
            header.SpacingBetweenSlices = _decimals([spacing])[0]


def _repair_multiframe(
    header: Dataset, source: Dataset, spacing: float | None, orientation: Sequence[float]
) -> None:
    """Lay the geometry out as highdicom reads it.

    Spacing and orientation shared (Siemens repeats them in every frame), position per frame.
    """
    source_value = source.get("SharedFunctionalGroupsSequence") or [Dataset()]
    frames = source.PerFrameFunctionalGroupsSequence
    measures = copy.deepcopy(_macro(frames[0], source_value[0], "PixelMeasuresSequence"))
    if not measures.get("SliceThickness") and spacing is not None:
        measures.SliceThickness = _decimals([spacing])[0]
    if spacing is not None:
        measures.SpacingBetweenSlices = _decimals([spacing])[0]
    plane = Dataset()
    plane.ImageOrientationPatient = _decimals(
        orientation or _macro(frames[0], source_value[0], "PlaneOrientationSequence").ImageOrientationPatient
    )
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    header.SharedFunctionalGroupsSequence = [shared]
    header.PerFrameFunctionalGroupsSequence = [
        _position(_macro(frame, source_value[0], "PlanePositionSequence")) for frame in frames
    ]


def _macro(frame: Dataset, shared: Dataset, keyword: str) -> Dataset:
    for group in (frame, shared):
        if group.get(keyword):
            macro: Dataset = group[keyword].value[0]
            return macro
    raise ResultRejected(f"a frame of the source image has no {keyword}")


def _position(source: Dataset) -> Dataset:
    position, groups = Dataset(), Dataset()
    position.ImagePositionPatient = _decimals(source.ImagePositionPatient)
    groups.PlanePositionSequence = [position]
    return groups


def _orientation(first: Dataset, volume: Volume | None) -> list[float]:
    """Return the volume's direction cosines where they differ from the header's, else nothing.

    They differ where jitter was averaged.
    """
    if volume is None:
        return []
    directions = volume.affine[:3, [2, 1]] / np.linalg.norm(volume.affine[:3, [2, 1]], axis=0)
    ours = directions.T.ravel()
    source_value = first.get("ImageOrientationPatient")
    if "PerFrameFunctionalGroupsSequence" in first:
        shared = first.get("SharedFunctionalGroupsSequence") or [Dataset()]
        source_value = _macro(
            first.PerFrameFunctionalGroupsSequence[0], shared[0], "PlaneOrientationSequence"
        ).ImageOrientationPatient
    if (
        source_value
        and np.abs(np.array([float(value) for value in source_value]) - ours).max() < _SAME_DIRECTION
    ):
        return []
    return [float(value) for value in ours]


def _slice_spacing(volume: Volume) -> float:
    normal = np.cross(volume.affine[:3, 1], volume.affine[:3, 2])
    return float(abs(volume.affine[:3, 0] @ normal) / np.linalg.norm(normal))


def _decimals(values: Sequence[object]) -> list[DSfloat]:
    return [DSfloat(float(value), auto_format=True) for value in values]  # type: ignore[arg-type]
