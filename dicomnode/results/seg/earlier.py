"""An earlier segmentation of ours, read back as what a follow-up compares with."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from dicomnode.errors import StudyRefused
from dicomnode.results.provenance import MANUFACTURER
from pipeline.records import Earlier, Volume


def referenced_series(path: Path) -> str:
    """Return the Series Instance UID of the images that a segmentation of ours lies on.

    Raises
    ------
    StudyRefused
        The file is no segmentation, or not one of ours.
    """
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except (InvalidDicomError, OSError, ValueError) as problem:
        raise StudyRefused(
            f"the earlier segmentation cannot be read: {type(problem).__name__}", code="earlier-unreadable"
        ) from None
    if header.get("Modality") != "SEG" or header.get("Manufacturer") != MANUFACTURER:
        raise StudyRefused("the earlier segmentation is not one of this node", code="earlier-not-ours")
    return str(header.ReferencedSeriesSequence[0].SeriesInstanceUID)


def read_earlier(path: Path, image: Volume) -> Earlier:
    """Return the lesions of a segmentation, on the grid of its own frames.

    Parameters
    ----------
    image
        The volume of `referenced_series(path)`.

    Raises
    ------
    StudyRefused
        It lies in another frame of reference than the image.
    """
    segmentation = hd.seg.segread(path)
    if str(segmentation.FrameOfReferenceUID) != image.frame_of_reference_uid:
        raise StudyRefused(
            "the earlier segmentation and its images have different frames of reference",
            code="earlier-elsewhere",
        )
    volume = segmentation.get_volume(combine_segments=True, relabel=False)
    labels = Volume(
        np.asarray(volume.array, np.uint16),
        np.asarray(volume.affine, np.float64),
        image.frame_of_reference_uid,
    )
    tracking = {
        int(item.SegmentNumber): str(item.get("TrackingUID", "")) for item in segmentation.SegmentSequence
    }
    return Earlier(
        image, labels, tracking, str(segmentation.SOPInstanceUID), str(segmentation.get("StudyDate") or "")
    )
