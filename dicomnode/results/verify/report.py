"""The last gate for reports: the content tree, read back, against the mask, the segments and the sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.records import SourceSeries
from dicomnode.results.report.changes import changes_told
from dicomnode.results.verify.mask import list_segments
from dicomnode.results.words import codes
from pipeline.geometry import apply_affine, voxel_volume_mm3
from pipeline.records import PipelineResult

_RELATIVE_TOLERANCE = 1e-4


def check_report(report: Dataset, segmentation: Dataset | None, result: PipelineResult, sources: Sequence[SourceSeries]) -> None:
    """Refuse a report whose references, tracking UIDs, numbers or lines differ from what was found.

    Parameters
    ----------
    segmentation
        The SEG as read back, already proven; None when there is no lesion.

    Raises
    ------
    ResultRejected
        With the first difference that was seen.
    """
    _check_references(report, segmentation, sources)
    groups = [item for item in walk_content(report) if concept(item) == "125007"]
    _check_changes(groups, segmentation, result)
    if segmentation is None:
        _check_negative(report, groups)
        return
    segments = {int(item.SegmentNumber): str(item.TrackingUID) for item in list_segments(segmentation)}
    seen = {}
    for group in groups:
        for item in walk_content(group):
            if item.ValueType == "IMAGE" and concept(item) == "121191":
                number = int(item.ReferencedSOPSequence[0].ReferencedSegmentNumber)
                seen[number] = _text(group, "112040")
                _check_volume(group, number, segments, result)
            if item.ValueType == "SCOORD":
                _check_line(group, item, segments, result, sources[0])
    if seen != segments:
        raise ResultRejected("the report's tracking UIDs differ from the segments'")
    drawn = {_text(group, "112040") for group in groups if any(item.ValueType == "SCOORD" for item in walk_content(group))}
    if not set(segments.values()) <= drawn:
        raise ResultRejected("a lesion has no line in the report")


def walk_content(item: Dataset) -> Iterator[Dataset]:
    """Yield every content item below one, depth first."""
    for child in item.get("ContentSequence", []):
        yield child
        yield from walk_content(child)


def concept(item: Dataset) -> str:
    """Return the code value of a content item's concept name, or nothing."""
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def _check_references(report: Dataset, segmentation: Dataset | None, sources: Sequence[SourceSeries]) -> None:
    known = {frame.SOPInstanceUID for source in sources for frame in source.frames}
    known |= {str(segmentation.SOPInstanceUID)} if segmentation is not None else set()
    evidence = {
        str(instance.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
        if study.StudyInstanceUID == report.StudyInstanceUID
    }
    if evidence != known:
        raise ResultRejected("the report's evidence differs from the images and results that it is about")
    for item in walk_content(report):
        for reference in item.get("ReferencedSOPSequence", []):
            if reference.ReferencedSOPInstanceUID not in known:
                raise ResultRejected("the report points to an instance that is not of this study")
        if item.ValueType == "IMAGE" and item.RelationshipType == "INFERRED FROM":
            raise ResultRejected("an image below coordinates must be SELECTED FROM")


def _check_changes(groups: Sequence[Dataset], segmentation: Dataset | None, result: PipelineResult) -> None:
    """Hold the coded changes against the comparison: each under the lesion that it is of."""
    told = [
        (_text(group, "112040"), str(item.ConceptCodeSequence[0].CodeValue), _text(item, "112040"))
        for group in groups
        for item in walk_content(group)
        if concept(item) == codes.CHANGE.value
    ]
    whole = next((_text(group, "112040") for group in groups), "")
    wanted = [(whole, codes.CHANGES[change.kind].value, change.tracking_uid) for change in changes_told(result)]
    if segmentation is not None:
        uids = {int(item.SegmentNumber): str(item.TrackingUID) for item in list_segments(segmentation)}
        # The last segment may stand for all lesions from its number on.
        shared = result.lesions[len(uids) - 1 :]
        for lesion in (*result.lesions[: len(uids) - 1], *(shared if len(shared) == 1 else ())):
            wanted += [(uids[lesion.label], codes.CHANGES[change.kind].value, "") for change in changes_told(result, [lesion])]
    if sorted(told) != sorted(wanted):
        raise ResultRejected(f"the report tells the changes {told}, the comparison found {wanted}")


def _check_negative(report: Dataset, groups: Sequence[Dataset]) -> None:
    counts = [_number(item) for group in groups for item in walk_content(group) if concept(item) == "246206008"]
    if counts != [0.0]:
        raise ResultRejected("the negative report does not say that there are no lesions")
    if any(item.ValueType == "SCOORD" for item in walk_content(report)):
        raise ResultRejected("the negative report draws a line")


def _check_volume(group: Dataset, number: int, segments: dict[int, str], result: PipelineResult) -> None:
    labels = result.labels.array
    inside = labels >= number if number == len(segments) else labels == number
    volume_ml = np.count_nonzero(inside) * voxel_volume_mm3(result.labels.affine) / 1000
    stated = [_number(item) for item in walk_content(group) if concept(item) == "118565006"]
    if len(stated) != 1 or not np.isclose(stated[0], volume_ml, rtol=_RELATIVE_TOLERANCE):
        raise ResultRejected(f"segment {number} has {volume_ml:.4g} ml, the report says {stated}")


def _check_line(group: Dataset, item: Dataset, segments: dict[int, str], result: PipelineResult, reference: SourceSeries) -> None:
    """Hold a long axis against the mask: both ends in the lesion, on the named image, as long as stated."""
    image = item.ContentSequence[0].ReferencedSOPSequence[0]
    place = (str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber") or 1))
    slices = [k for k, frame in enumerate(reference.frames) if (frame.SOPInstanceUID, frame.frame_number) == place]
    if len(slices) != 1 or len(item.GraphicData) != 4:
        raise ResultRejected("a line of the report lies on no slice of the reference series")
    # SCOORD is (column, row) from the outer corner of the first pixel (PS3.3 C.18.6.1.2).
    column_row = np.array(item.GraphicData, dtype=float).reshape(2, 2) - 0.5
    index = np.array([[slices[0], row, column] for column, row in column_row])
    # An end lies on the edge of a pixel: a hundredth of a pixel further in, it lies in the pixel.
    inward = np.sign(index[::-1] - index) * 0.01
    labels = result.labels.array[tuple(np.rint(index + inward).astype(int).T)]
    numbers = [number for number, uid in segments.items() if uid == _text(group, "112040")]
    last = len(segments)
    if (labels == 0).any() or (numbers and (np.minimum(labels, last) != numbers[0]).any()):
        raise ResultRejected("a line of the report ends outside its lesion")
    start, end = apply_affine(result.labels.affine, index)
    stated = [_number(parent) for parent in walk_content(group) if any(child is item for child in parent.get("ContentSequence", []))]
    if not np.isclose(stated[0], np.linalg.norm(end - start), rtol=_RELATIVE_TOLERANCE):
        raise ResultRejected("a line of the report is not as long as stated")


def _number(item: Dataset) -> float:
    return float(item.MeasuredValueSequence[0].NumericValue)


def _text(group: Dataset, code: str) -> str:
    for item in walk_content(group):
        if concept(item) == code:
            return str(item.get("UID") or item.get("TextValue") or "")
    return ""
