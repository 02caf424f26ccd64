"""A SEG of images that highdicom does not take together.

Of several series, or frames of several multi-frame instances.

It is built on stand-ins, one single-frame header a slice under UIDs of their own; afterwards every reference
is written back to the image that the stand-in stood for (PS3.3 C.7.6.16.2.6 Derivation Image, C.12.4 Common
Instance Reference).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicomnode.records import SourceSeries
from dicomnode.results.provenance import Provenance

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


@dataclass(frozen=True)
class ImageReference:
    """One frame of a source image; `frame_number` is None for single-frame images."""

    SOPClassUID: str
    SOPInstanceUID: str
    SeriesInstanceUID: str
    frame_number: int | None


@dataclass(frozen=True, eq=False)
class StandIns:
    """Headers for highdicom, and what each of them stands for: stand-in SOP Instance UID to image.

    Empty where nothing had to be replaced.
    """

    headers: Sequence[Dataset]
    images: dict[str, ImageReference]


def stand_in(headers: Sequence[Dataset], source: SourceSeries, provenance: Provenance) -> StandIns:
    """Return headers that highdicom takes as one series: the very same ones where they are one.

    Parameters
    ----------
    headers
        One a slice, in the order of `source.frames`, or one multi-frame header.
    """
    series = {str(header.SeriesInstanceUID) for header in headers}
    instances = {str(header.SOPInstanceUID) for header in headers}
    multiframe = any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers)
    if len(headers) == 1 or (len(series) == 1 and len(instances) == len(headers) and not multiframe):
        return StandIns(headers, {})
    replaced, images = [], {}
    for number, (header, frame) in enumerate(zip(headers, source.frames, strict=True)):
        stand = copy.deepcopy(header)
        stand.SOPInstanceUID = provenance.uid("stand-in", source.role, number)
        stand.SOPClassUID = UID(MR_IMAGE_STORAGE)
        stand.SeriesInstanceUID = provenance.uid("stand-in series", source.role)
        if "NumberOfFrames" in stand:
            del stand.NumberOfFrames
        is_multiframe = int(header.get("NumberOfFrames") or 1) > 1
        images[str(stand.SOPInstanceUID)] = ImageReference(
            str(header.SOPClassUID),
            str(header.SOPInstanceUID),
            str(header.SeriesInstanceUID),
            frame.frame_number if is_multiframe else None,
        )
        replaced.append(stand)
    return StandIns(replaced, images)


def write_back(dataset: Dataset, images: dict[str, ImageReference]) -> None:
    """Let every reference of a SEG to a stand-in point to its image, in place."""
    if not images:
        return
    series: dict[str, dict[str, str]] = {}
    for image in images.values():
        series.setdefault(image.SeriesInstanceUID, {})[image.SOPInstanceUID] = image.SOPClassUID
    dataset.ReferencedSeriesSequence = [_series_item(uid, members) for uid, members in series.items()]
    _write_back(dataset, images)


def _series_item(SeriesInstanceUID: str, members: dict[str, str]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = SeriesInstanceUID
    item.ReferencedInstanceSequence = []
    for uid, sop_class in members.items():
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class, uid
        item.ReferencedInstanceSequence.append(reference)
    return item


def _write_back(dataset: Dataset, images: dict[str, ImageReference]) -> None:
    image = images.get(str(dataset.get("ReferencedSOPInstanceUID", "")))
    if image is not None:
        dataset.ReferencedSOPClassUID, dataset.ReferencedSOPInstanceUID = (
            image.SOPClassUID,
            image.SOPInstanceUID,
        )
        if image.frame_number is not None:
            dataset.ReferencedFrameNumber = image.frame_number
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _write_back(item, images)
