"""The structured report of found lesions: Comprehensive 3D SR, TID 1500 (PS3.16).

Each lesion has two measurement groups with one tracking UID: TID 1411 points to its segment, TID 1501 holds
the long axis with its coordinates. OHIF merges them, draws the line and prints the comment and what is
measured without modifiers next to it; on a group without coordinates its viewport crashes. Where a label has
no room, the ends of the axis are two points, which OHIF draws without words. The totals stand apart.
"""

from __future__ import annotations

import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from dicomnode.records import SourceFrame
from dicomnode.results.parts import AnswerParts
from dicomnode.results.provenance import describe_algorithm
from dicomnode.results.report.changes import changes_told, evaluate_changes, measure_earlier
from dicomnode.results.report.document import (
    EncodingPlan,
    ReportSeries,
    Verdict,
    build_document,
    make_measurement,
    make_report,
    make_summary,
    write_texts,
)
from dicomnode.results.report.labels import choose_labels
from dicomnode.results.report.texts import texts_of
from dicomnode.results.segments import SegmentPlan
from dicomnode.results.words import codes
from dicomnode.results.words.measured import reported
from dicomnode.results.words.places import regions_of, shorten_label
from dicomnode.results.words.sentences import NOT_FOR_DIAGNOSIS, is_limited, was_refused
from dicomnode.settings.config import ResultForm
from pipeline.records import LongAxis, Measurement, Plan

Group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations | sr.MeasurementsAndQualitativeEvaluations


def build_lesion_report(parts: AnswerParts, form: ResultForm, segmentation: Dataset) -> Dataset:
    """Return the report of a result with at least one lesion.

    Parameters
    ----------
    segmentation
        The SEG that the report points to.
    """
    groups: list[Group] = []
    axes = [longest_axis(segment) for segment in parts.plans]
    candidates = [shorten_label(segment.label, len(segment.lesions)) for segment in parts.plans]
    grid = parts.result.labels
    labels = choose_labels(axes, candidates, grid.array.shape, grid.affine)
    for segment, axis, label in zip(parts.plans, axes, labels, strict=True):
        groups.append(_describe_segment(segment, parts, segmentation))
        groups.append(_describe_long_axis(segment, axis, label, parts))
    plan = EncodingPlan(parts, form, texts_of(parts.narrative))
    verdict = judge_lesions(parts, codes.IMAGING_MEASUREMENT_REPORT)
    return build_document(make_report(groups, [_describe_all(parts)], verdict, plan), plan, [segmentation])


def build_summary(parts: AnswerParts, form: ResultForm, segmentation: Dataset) -> Dataset:
    """Return the report of found lesions as one reads it: words and verdict, without measurements.

    Viewers show its title as text; the measurement report is drawn on the images instead.
    """
    total_ml = sum(item.value for item in parts.result.measurements if item.name == "total_volume")
    noun = "lesion" if len(parts.result.lesions) == 1 else "lesions"
    description = f"{len(parts.result.lesions)} stroke {noun}, {total_ml:.1f} ml (AI, {NOT_FOR_DIAGNOSIS})"
    series = ReportSeries("summary", 7, description, replaces=False)
    plan = EncodingPlan(parts, form, texts_of(parts.narrative), series)
    verdict = judge_lesions(parts, codes.DIAGNOSTIC_IMAGING_REPORT)
    return build_document(make_summary(verdict, plan), plan, [segmentation])


def judge_lesions(parts: AnswerParts, title: Code) -> Verdict:
    """Return the verdict of a result with lesions."""
    summary = (
        codes.SOME_SUCCEEDED_WITH_FINDINGS
        if was_refused(parts.findings)
        else codes.ALL_SUCCEEDED_WITH_FINDINGS
    )
    return Verdict(title, summary, codes.PRESENT, is_limited(parts.findings))


def cite_algorithm(plan: Plan) -> sr.AlgorithmIdentification:
    """Return the lesion network as TID 4019.

    Its words agree with the Contributing Equipment item (IHE AIR).
    """
    algorithm = describe_algorithm(plan)
    parameters = [
        value if name == "statement" else f"{name} {value}" for name, value in algorithm.parameters.items()
    ]
    return sr.AlgorithmIdentification(
        name=algorithm.name,
        version=algorithm.version,
        parameters=parameters,
        family=codes.ARTIFICIAL_INTELLIGENCE,
    )


def name_algorithm(plan: Plan) -> sr.AlgorithmIdentification:
    """Return the lesion network's name; its parameters stand once, with the totals."""
    algorithm = describe_algorithm(plan)
    return sr.AlgorithmIdentification(name=algorithm.name, version=algorithm.version)


def place_long_axis(
    axis: LongAxis, frame: SourceFrame, SOPClassUID: UID, *, multiframe: bool, as_line: bool = True
) -> sr.CoordinatesForMeasurement:
    """Return the long axis as a polyline, or as its two ends, on its source frame.

    SCOORD counts (column, row) from the outer corner of the first pixel (PS3.3 C.18.6.1.2), so voxel centres
    gain one half.
    """
    coordinates = sr.CoordinatesForMeasurement(
        graphic_type=sr.GraphicTypeValues.POLYLINE if as_line else sr.GraphicTypeValues.MULTIPOINT,
        graphic_data=np.array([[column + 0.5, row + 0.5] for row, column in (axis.start, axis.end)]),
        source_image=sr.SourceImageForRegion(
            referenced_sop_class_uid=SOPClassUID,
            referenced_sop_instance_uid=frame.SOPInstanceUID,
            referenced_frame_numbers=[frame.frame_number] if multiframe else None,
        ),
    )
    # highdicom writes INFERRED FROM below the coordinates; TID 320 wants SELECTED FROM.
    for item in coordinates.ContentSequence:
        item.RelationshipType = sr.RelationshipTypeValues.SELECTED_FROM.value
    return coordinates


def _has_frames(header: Dataset) -> bool:
    """Return whether an image is named together with a frame of it.

    The header of a part of a concatenation has lost its functional groups (`headers.read_source`).
    """
    return "PerFrameFunctionalGroupsSequence" in header or int(header.get("NumberOfFrames") or 1) > 1


def _describe_all(parts: AnswerParts) -> sr.MeasurementsAndQualitativeEvaluations:
    """Return the totals; the longest axis is that of one lesion, whose own group draws it."""
    result = parts.result
    longest_mm = max(lesion.long_axis.length_mm for lesion in result.lesions)
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=parts.provenance.uid("all lesions"), identifier="All lesions"
        ),
        finding_type=codes.LESION_OF_BRAIN,
        finding_sites=[sr.FindingSite(codes.BRAIN)],
        algorithm_id=cite_algorithm(result.plan),
        measurements=[
            *(make_measurement(item) for item in result.measurements),
            make_measurement(Measurement("greatest_long_axis", longest_mm, "mm", "")),
        ],
        qualitative_evaluations=evaluate_changes(changes_told(result)) or None,
    )


def _describe_segment(plan: SegmentPlan, parts: AnswerParts, segmentation: Dataset) -> Group:
    changes = changes_told(parts.result, plan.lesions)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=plan.tracking_uid, identifier=plan.tracking_id),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=plan.number,
            source_series=sr.SourceSeriesForSegmentation(parts.context.sources[0].SeriesInstanceUID),
        ),
        finding_type=codes.LESION_OF_BRAIN,
        finding_sites=name_sites(plan),
        algorithm_id=name_algorithm(parts.result.plan),
        measurements=[
            *(make_measurement(item) for item in measure_segment(plan) if item.name != "long_axis"),
            *measure_earlier(changes),
        ],
        qualitative_evaluations=evaluate_changes(changes) or None,
    )


def longest_axis(plan: SegmentPlan) -> LongAxis:
    """Return the longest of the long axes of a segment's lesions."""
    return max((lesion.long_axis for lesion in plan.lesions), key=lambda axis: axis.length_mm)


def _describe_long_axis(plan: SegmentPlan, axis: LongAxis, label: str, parts: AnswerParts) -> Group:
    """Return the group that OHIF draws; without a label that has room, its axis is two points."""
    measured = Measurement("long_axis", axis.length_mm, "mm", "")
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=plan.tracking_uid, identifier=plan.tracking_id),
        finding_type=codes.LESION_OF_BRAIN,
        finding_sites=name_sites(plan),
        measurements=[make_measurement(measured, [_coordinates(axis, parts, as_line=bool(label))])],
    )
    # OHIF prints a group's comment next to its line.
    group[0].ContentSequence.extend(write_texts([(codes.COMMENT, label or plan.label)]))
    return group


def name_sites(plan: SegmentPlan) -> list[sr.FindingSite]:
    """Return the brain with the side, then each region and each arterial territory that has a code."""
    side = codes.SIDES.get(plan.laterality)
    lesion = plan.lesions[0] if len(plan.lesions) == 1 else None
    regions = regions_of(lesion) if lesion else ()
    coded = [codes.REGIONS[region] for region in regions if region in codes.REGIONS]
    # The site's own codes; they name their side themselves.
    territories = [Code(*share.code) for share in (lesion.territories if lesion else ()) if share.code]
    return [
        sr.FindingSite(codes.BRAIN, side),
        *(sr.FindingSite(region, side) for region in coded),
        *(sr.FindingSite(territory) for territory in territories),
    ]


def measure_segment(plan: SegmentPlan) -> tuple[Measurement, ...]:
    """Return a segment's measurements: the lesion's own, or the sum of the volumes of merged lesions."""
    if len(plan.lesions) == 1:
        lesion = plan.lesions[0]
        agreed = (
            ()
            if lesion.mean_agreement is None
            else (Measurement("agreement", 100 * lesion.mean_agreement, "%", ""),)
        )
        return (*reported(lesion.measurements), *agreed)
    volumes = [item for lesion in plan.lesions for item in lesion.measurements if item.name == "volume"]
    return (Measurement("volume", sum(item.value for item in volumes), volumes[0].unit, volumes[0].method),)


def _coordinates(axis: LongAxis, parts: AnswerParts, *, as_line: bool) -> sr.CoordinatesForMeasurement:
    header = parts.evidence[0][0]
    frame = parts.context.sources[0].frames[axis.slice_index]
    return place_long_axis(
        axis, frame, UID(header.SOPClassUID), multiframe=_has_frames(header), as_line=as_line
    )
