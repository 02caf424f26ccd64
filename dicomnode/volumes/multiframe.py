"""An in-memory copy of an Enhanced MR instance, in one order and one orientation.

Both converters read the copy.

dicom2nifti places frames by In-Stack Position Number but takes the geometry from the first and last frame,
and reads the rescale of per-frame groups only; so the copy has its frames sorted by position, numbered so,
and its rescale in every frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from dicomnode.spool.opening import open_instance
from dicomnode.study.stacks import Stack
from dicomnode.volumes.pixels import DecodedSlice, add_pixels, describe_format, native_meta

ENHANCED_MR = frozenset({"1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4"})

_CARRIED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "ImageType",
    "VolumetricProperties",
    "BurnedInAnnotation",
)


def is_one_enhanced(stack: Stack) -> bool:
    """Return whether the stack is exactly the frames of one Enhanced MR instance."""
    first = stack.slices[0].instance
    is_whole_instance = (
        all(item.instance is first for item in stack.slices)
        and len(stack.slices) == first.header.NumberOfFrames > 1
    )
    return is_whole_instance and first.header.SOPClassUID in ENHANCED_MR


def enhanced_copy(slices: Sequence[DecodedSlice], orientation: Sequence[float], spool_root: Path) -> Dataset:
    """Return a copy of the instance that `slices` come from, frames in the order of the stack."""
    with open_instance(spool_root / slices[0].source.instance.path) as file:
        source = pydicom.dcmread(file, stop_before_pixels=True, force=True)
    copy = Dataset()
    for keyword in _CARRIED:
        if keyword in source:
            copy[keyword] = source[keyword]
    header = slices[0].source.instance.header
    copy.NumberOfFrames = len(slices)
    copy.SharedFunctionalGroupsSequence = [
        _item(PlaneOrientationSequence=[_item(ImageOrientationPatient=list(orientation))])
    ]
    copy.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = [
        _item(PixelSpacing=list(header.PixelSpacing), SliceThickness=1.0)
    ]
    copy.PerFrameFunctionalGroupsSequence = [
        _frame(item, number) for number, item in enumerate(slices, start=1)
    ]
    stored = np.stack([item.stored for item in slices])
    describe_format(copy, stored)
    add_pixels(copy, stored)
    copy.file_meta = native_meta(header.SOPClassUID, header.SOPInstanceUID)
    return copy


def _frame(item: DecodedSlice, number: int) -> Dataset:
    content = _item(StackID="1", InStackPositionNumber=number, DimensionIndexValues=[1, number])
    groups = _item(
        FrameContentSequence=[content],
        PlanePositionSequence=[_item(ImagePositionPatient=list(item.source.position))],
    )
    if len(item.transform):
        groups.PixelValueTransformationSequence = [item.transform]
    return groups


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item
