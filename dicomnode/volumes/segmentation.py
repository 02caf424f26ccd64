"""A DICOM-SEG back as a mask in patient space, by highdicom."""

from __future__ import annotations

import warnings
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom.errors import InvalidDicomError
from pydicom.uid import SegmentationStorage

from dicomnode.errors import StudyRefused
from pipeline.records import Volume

SEG_CLASS = str(SegmentationStorage)


def read_segmentation(path: Path) -> Volume:
    """Return a volume of 0 and 1: voxels that are in any segment.

    Slices without a segment may be absent from a SEG (PS3.3 C.8.20.2), so the volume may hold only a part of
    the image's slices; those that are missing in between are empty.

    Raises
    ------
    StudyRefused
        The file is no SEG, is not binary, or its frames do not form a regular grid ("seg-unreadable").
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seg = hd.seg.segread(path)
            if seg.segmentation_type != hd.seg.SegmentationTypeValues.BINARY:
                raise StudyRefused(
                    f"{path.name} is a {seg.segmentation_type.value} segmentation; give a BINARY one.",
                    code="seg-unreadable",
                )
            segment_volume = seg.get_volume(
                combine_segments=True, skip_overlap_checks=True, allow_missing_positions=True
            )
    except (
        InvalidDicomError,
        ValueError,
        RuntimeError,
        AttributeError,
        KeyError,
        OSError,
        EOFError,
    ) as problem:
        raise StudyRefused(
            f"{path.name} cannot be read as a DICOM segmentation ({type(problem).__name__}).",
            code="seg-unreadable",
        ) from None
    return Volume(
        (segment_volume.array > 0).astype(np.uint8),
        np.asarray(segment_volume.affine, dtype=np.float64),
        str(segment_volume.frame_of_reference_uid),
    )
