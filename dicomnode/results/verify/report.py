"""The last gate for reports: the content tree, read back, against the mask, the segments and the sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.records import SourceSeries
from dicomnode.results.verify import expected_codes
from dicomnode.results.verify.content import code_of, code_values, concept, number_of, text_of, walk_content
from dicomnode.results.verify.mask import lesions_of_segments, list_segments, side_of
from dicomnode.results.verify.numbers import check_numbers
from dicomnode.results.verify.source import SourceStudy
from dicomnode.results.verify.words import check_words
from dicomnode.settings.config import Language
from pipeline.geometry import apply_affine, voxel_volume_mm3
from pipeline.records import LesionChange, PipelineResult

_RELATIVE_TOLERANCE = 1e-4
_GROUP, _TRACKING_UID, _REFERENCED_SEGMENT = "125007", "112040", "121191"
_FINDING_SITE, _LATERALITY, _FRAME_OF_REFERENCE = "363698007", "272741003", "112227"
_SUMMARY = "111017"
_ALGORITHM_NAME, _ALGORITHM_VERSION = "111001", "111003"


def check_report(
    report: Dataset,
    segmentation: Dataset | None,
    result: PipelineResult,
    sources: Sequence[SourceSeries],
    source: SourceStudy,
    language: Language,
) -> None:
    """Refuse a report that differs from what the pipeline measured.

    Compared are its references, tracking UIDs, codes, numbers and lines.

    Parameters
    ----------
    segmentation
        The SEG as read back, already proven; None when there is no lesion.

    Raises
    ------
    ResultRejected
        With the first difference.
    """
    _check_evidence(report, segmentation, sources)
    _check_frames_of_reference(report, source)
    totals, groups = _read_groups(report, segmentation)
    title = expected_codes.POSITIVE_TITLE if result.lesions else expected_codes.NEGATIVE_TITLE
    _check_verdict(report, result, title)
    _check_algorithm([totals, *groups], result)
    _check_changes([totals, *groups], segmentation, result)
    if segmentation is None:
        _check_negative(report, [totals])
    else:
        _check_groups(groups, segmentation, result, sources[0])
        if any(item.ValueType == "SCOORD" for item in walk_content(totals)):
            raise ResultRejected("the report draws a line for all lesions together")
    segment_count = None if segmentation is None else len(list_segments(segmentation))
    check_numbers(totals, groups, segment_count, result)
    check_words(report, segment_count or 0, result, language)


def check_summary(
    report: Dataset,
    segmentation: Dataset,
    result: PipelineResult,
    sources: Sequence[SourceSeries],
    language: Language,
) -> None:
    """Refuse a report without measurements whose references, verdict or words differ from what was measured.

    Raises
    ------
    ResultRejected
        With the first difference.
    """
    _check_evidence(report, segmentation, sources)
    _check_verdict(report, result, expected_codes.NEGATIVE_TITLE)
    check_words(report, len(list_segments(segmentation)), result, language)


def _read_groups(report: Dataset, segmentation: Dataset | None) -> tuple[Dataset, list[Dataset]]:
    """Return the group of all lesions, and those of the single lesions.

    Without lesions the totals are the only group.
    """
    derived = [
        item for item in report.ContentSequence if concept(item) == expected_codes.DERIVED_MEASUREMENTS
    ]
    totals = [item for container in derived for item in walk_content(container) if concept(item) == _GROUP]
    groups = [item for item in walk_content(report) if concept(item) == _GROUP and item not in totals]
    if segmentation is None:
        totals, groups = [*totals, *groups], []
    if len(totals) != 1:
        raise ResultRejected(f"the report has {len(totals)} groups of all lesions instead of one")
    return totals[0], groups


def check_refusal_report(report: Dataset) -> None:
    """Refuse a report of a study that was not analysed which claims that a lesion is present or absent."""
    if set(code_values(report, _SUMMARY)) != expected_codes.NONE_SUCCEEDED:
        raise ResultRejected("the refusal's summary is not that nothing succeeded")
    if set(code_values(report, expected_codes.LESION_OF_BRAIN[0])) != {expected_codes.UNDETERMINED}:
        raise ResultRejected("the refusal claims to know whether there is a lesion")


def _check_groups(
    groups: Sequence[Dataset], segmentation: Dataset, result: PipelineResult, reference: SourceSeries
) -> None:
    segments = {int(item.SegmentNumber): str(item.TrackingUID) for item in list_segments(segmentation)}
    by_number: dict[int, str] = {}
    for group in groups:
        for item in walk_content(group):
            if item.ValueType == "IMAGE" and concept(item) == _REFERENCED_SEGMENT:
                number = int(item.ReferencedSOPSequence[0].ReferencedSegmentNumber)
                by_number[number] = text_of(group, _TRACKING_UID)
                _check_volume(group, number, segments, result)
            if item.ValueType == "SCOORD":
                _check_line(group, item, segments, result, reference)
    if by_number != segments:
        raise ResultRejected("the report's tracking UIDs differ from the segments'")
    drawn = {
        text_of(group, _TRACKING_UID)
        for group in groups
        if any(item.ValueType == "SCOORD" for item in walk_content(group))
    }
    if not set(segments.values()) <= drawn:
        raise ResultRejected("a lesion has no line in the report")
    _check_sides(groups, segments, result)
    _check_regions(groups, segments, result)


def _check_evidence(report: Dataset, segmentation: Dataset | None, sources: Sequence[SourceSeries]) -> None:
    expected = {frame.SOPInstanceUID for series in sources for frame in series.frames}
    expected |= {str(segmentation.SOPInstanceUID)} if segmentation is not None else set()
    evidence = {
        str(instance.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    if evidence != expected:
        raise ResultRejected("the report's evidence differs from the images and results that it is about")
    if any(
        item.ValueType == "IMAGE" and item.RelationshipType == "INFERRED FROM"
        for item in walk_content(report)
    ):
        raise ResultRejected("an image below coordinates must be SELECTED FROM")


def _check_frames_of_reference(report: Dataset, source: SourceStudy) -> None:
    expected = {instance.FrameOfReferenceUID for instance in source.instances.values()}
    stated = {str(item.UID) for item in walk_content(report) if concept(item) == _FRAME_OF_REFERENCE}
    if not stated or not stated <= expected:
        raise ResultRejected("the report has another frame of reference than the images")


def _check_verdict(report: Dataset, result: PipelineResult, title: tuple[str, str]) -> None:
    """Hold title, summary and the answer to "is there a lesion" against whether there is one."""
    positive = bool(result.lesions)
    if code_of(report.ConceptNameCodeSequence[0]) != title:
        raise ResultRejected(
            "the report's title is not that of a report with lesions"
            if positive
            else "the report's title is wrong"
        )
    summaries = set(code_values(report, _SUMMARY))
    if not summaries or not summaries <= (
        expected_codes.WITH_FINDINGS if positive else expected_codes.WITHOUT_FINDINGS
    ):
        raise ResultRejected("the report's summary contradicts what the pipeline measured")
    verdicts = set(code_values(report, expected_codes.LESION_OF_BRAIN[0]))
    allowed = {expected_codes.PRESENT} if positive else {expected_codes.ABSENT, expected_codes.UNDETERMINED}
    if len(verdicts) != 1 or not verdicts <= allowed:
        raise ResultRejected("the report's verdict on lesions contradicts what the pipeline measured")
    if verdicts == {expected_codes.ABSENT} and result.reference_role != "flair":
        raise ResultRejected("the report says that lesions are absent although no FLAIR was segmented")


def _check_algorithm(groups: Sequence[Dataset], result: PipelineResult) -> None:
    model = result.models[0]
    stated = {(text_of(group, _ALGORITHM_NAME), text_of(group, _ALGORITHM_VERSION)) for group in groups} - {
        ("", "")
    }
    if stated != {(model.name, model.version)}:
        raise ResultRejected("the report names another algorithm than the one that ran")


def _check_sides(groups: Sequence[Dataset], segments: Mapping[int, str], result: PipelineResult) -> None:
    for number, lesions in lesions_of_segments(len(segments), result).items():
        side = side_of(lesions)
        for group in groups:
            stated = set(code_values(group, _LATERALITY))
            if text_of(group, _TRACKING_UID) == segments[number] and stated != ({side} if side else set()):
                raise ResultRejected("the report's laterality of a lesion differs from the pipeline's")


def _check_regions(groups: Sequence[Dataset], segments: Mapping[int, str], result: PipelineResult) -> None:
    """Compare the coded sites of a lesion with its shares.

    There is no region besides those of the shares; the largest is among them, and so is each coded territory.
    """
    for number, lesions in lesions_of_segments(len(segments), result).items():
        shares = [share.region for share in lesions[0].regions] if len(lesions) == 1 else []
        coded = [expected_codes.REGIONS[region] for region in shares if region in expected_codes.REGIONS]
        largest = set(coded[:1]) if shares[:1] and shares[0] in expected_codes.REGIONS else set()
        territories = {
            share.code[0] for share in (lesions[0].territories if len(lesions) == 1 else ()) if share.code
        }
        for group in groups:
            if text_of(group, _TRACKING_UID) != segments[number]:
                continue
            stated = set(code_values(group, _FINDING_SITE)) - {expected_codes.BRAIN[0]}
            if not largest | territories <= stated <= set(coded) | territories:
                raise ResultRejected("the report's regions of a lesion differ from the pipeline's")


def _check_changes(groups: Sequence[Dataset], segmentation: Dataset | None, result: PipelineResult) -> None:
    """Hold the coded changes against the comparison: each under the lesion that it is of."""
    stated = [
        (
            text_of(group, _TRACKING_UID),
            str(item.ConceptCodeSequence[0].CodeValue),
            text_of(item, _TRACKING_UID),
        )
        for group in groups
        for item in walk_content(group)
        if concept(item) == expected_codes.CHANGE
    ]
    changes: Sequence[LesionChange] = result.follow_up.changes if result.follow_up else ()
    total_tracking_uid = next((text_of(group, _TRACKING_UID) for group in groups), "")
    expected = [
        (total_tracking_uid, expected_codes.CHANGES[change.kind], change.tracking_uid)
        for change in changes
        if change.label is None
    ]
    if segmentation is not None:
        uids = {int(item.SegmentNumber): str(item.TrackingUID) for item in list_segments(segmentation)}
        for number, lesions in lesions_of_segments(len(uids), result).items():
            # One code cannot stand for several lesions of one segment.
            own_changes = [
                change for change in changes if len(lesions) == 1 and change.label == lesions[0].label
            ]
            expected += [(uids[number], expected_codes.CHANGES[change.kind], "") for change in own_changes]
    if sorted(stated) != sorted(expected):
        raise ResultRejected("the report's changes differ from the comparison with the earlier study")


def _check_negative(report: Dataset, groups: Sequence[Dataset]) -> None:
    counts = [
        number_of(item) for group in groups for item in walk_content(group) if concept(item) == "246206008"
    ]
    if counts != [0.0]:
        raise ResultRejected("the negative report does not say that there are no lesions")
    if any(item.ValueType == "SCOORD" for item in walk_content(report)):
        raise ResultRejected("the negative report draws a line")


def _check_volume(group: Dataset, number: int, segments: Mapping[int, str], result: PipelineResult) -> None:
    """Count the mask's voxels anew: the pipeline's own number may be wrong too."""
    labels = result.labels.array
    inside = labels >= number if number == len(segments) else labels == number
    volume_ml = np.count_nonzero(inside) * voxel_volume_mm3(result.labels.affine) / 1000
    stated = [number_of(item) for item in walk_content(group) if concept(item) == "118565006"]
    if len(stated) != 1 or not np.isclose(stated[0], volume_ml, rtol=_RELATIVE_TOLERANCE):
        raise ResultRejected(f"segment {number} has {volume_ml:.4g} ml, the report says {stated}")


def _check_line(
    group: Dataset,
    item: Dataset,
    segments: Mapping[int, str],
    result: PipelineResult,
    reference: SourceSeries,
) -> None:
    """Hold a long axis against the mask: both ends in the lesion, on the named image, as long as stated."""
    image = item.ContentSequence[0].ReferencedSOPSequence[0]
    frame_name = (str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber") or 1))
    slices = [
        k
        for k, frame in enumerate(reference.frames)
        if (frame.SOPInstanceUID, frame.frame_number) == frame_name
    ]
    if len(slices) != 1 or len(item.GraphicData) != 4:
        raise ResultRejected("a line of the report lies on no slice of the reference series")
    # SCOORD is (column, row) from the outer corner of the first pixel (PS3.3 C.18.6.1.2).
    column_row = np.array(item.GraphicData, dtype=float).reshape(2, 2) - 0.5
    index = np.array([[slices[0], row, column] for column, row in column_row])
    # An end lies on the edge of a pixel: a hundredth of a pixel further in, it lies in the pixel.
    inward = np.sign(index[::-1] - index) * 0.01
    labels = result.labels.array[tuple(np.rint(index + inward).astype(int).T)]
    numbers = [number for number, uid in segments.items() if uid == text_of(group, _TRACKING_UID)]
    last = len(segments)
    if (labels == 0).any() or (numbers and (np.minimum(labels, last) != numbers[0]).any()):
        raise ResultRejected("a line of the report ends outside its lesion")
    start, end = apply_affine(result.labels.affine, index)
    stated = [
        number_of(parent)
        for parent in walk_content(group)
        if any(child is item for child in parent.get("ContentSequence", []))
    ]
    if not np.isclose(stated[0], np.linalg.norm(end - start), rtol=_RELATIVE_TOLERANCE):
        raise ResultRejected("a line of the report is not as long as stated")
