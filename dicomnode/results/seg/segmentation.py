"""DICOM Segmentation (PS3.3 A.51).

The reference series' own grid, one segment per lesion, one referenced series.

BINARY in native Explicit VR Little Endian and one referenced series are not taste: other encodings fail in
dcmqi, Slicer or Weasis, and a second referenced series makes OHIF show nothing. The other encodings are for
destinations that ask for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.errors import ResultRejected
from dicomnode.records import SourceSeries
from dicomnode.results.parts import AnswerParts
from dicomnode.results.provenance import (
    MANUFACTURER,
    PRODUCT,
    describe_equipment,
    freeze_document,
    identify_algorithm,
)
from dicomnode.results.seg.references import stand_in, write_back
from dicomnode.results.segments import SegmentPlan, cielab_color, draw_segments, segment_color
from dicomnode.results.words import codes
from dicomnode.results.words.sentences import WARNING, clip_at_sentence, plain_ascii
from dicomnode.settings.config import ResultForm, SegmentationForm
from pipeline.counts import counted
from pipeline.records import Array, PipelineResult

LARGEST_FRACTION = 255
"""Maximum Fractional Value of SEGs with 8 bits (PS3.3 C.8.20.2)."""
_TYPES: Mapping[SegmentationForm, hd.seg.SegmentationTypeValues] = {
    "binary": hd.seg.SegmentationTypeValues.BINARY,
    "pseudo-fractional": hd.seg.SegmentationTypeValues.FRACTIONAL,
    "labelmap": hd.seg.SegmentationTypeValues.LABELMAP,
}


@dataclass(frozen=True)
class SegmentationSeries:
    """The series of one SEG among those of an answer.

    Attributes
    ----------
    kind
        Name of its form (`ResultForm.kind_of`); it goes into the UIDs.
    number_offset
        Its Series Number, counted from the first of the results.
    """

    kind: str
    number_offset: int
    title: str


def build_segmentation(parts: AnswerParts, form: ResultForm) -> Dataset:
    """Return the SEG of a result with at least one lesion.

    Raises
    ------
    ResultRejected
        The mask does not lie on the source's grid.
    """
    return draw_on_grid(parts, SegmentationSeries(form.kind_of("seg"), 0, "Stroke lesions"), form)


def draw_on_grid(parts: AnswerParts, series: SegmentationSeries, form: ResultForm) -> Dataset:
    """Return a SEG of the lesions on the grid of the parts' first series, as a series of its own."""
    labels = draw_segments(parts.result.labels.array, parts.plans)
    description = {
        "pixel_array": order_as_source(labels, parts.context.sources[0], parts.evidence[0]),
        "segmentation_type": _TYPES[form.segmentation],
        "fractional_type": hd.seg.SegmentationFractionalTypeValues.OCCUPANCY,
        "segment_descriptions": [_describe_segment(plan, parts.result) for plan in parts.plans],
        "content_label": "STROKE_LESIONS",
    }
    return _encode(parts, series, description)


def build_probability(parts: AnswerParts, form: ResultForm) -> Dataset:
    """Return the lesion probability on the reference series' grid as a FRACTIONAL SEG of one segment."""
    title, result = "Lesion probability", parts.result
    segment = SegmentPlan(1, result.lesions, title, title, parts.provenance.uid(title), segment_color(1))
    probability = order_as_source(result.probability.array, parts.context.sources[0], parts.evidence[0])
    description = {
        "pixel_array": np.clip(probability, 0, 1)[..., np.newaxis],
        "segmentation_type": hd.seg.SegmentationTypeValues.FRACTIONAL,
        "fractional_type": hd.seg.SegmentationFractionalTypeValues.PROBABILITY,
        "segment_descriptions": [_describe_segment(segment, result)],
        "content_label": "LESION_PROB",
    }
    return _encode(parts, SegmentationSeries(form.kind_of("probability"), 5, title), description)


def order_as_source(values: Array, reference: SourceSeries, headers: Sequence[Dataset]) -> Array:
    """Return a volume's slices in the order of the source's frames.

    Classic headers are already in the order of the slices. In a multi-frame image slice k is frame
    `frames[k].frame_number`; frames that are no slice stay empty.
    """
    rows_columns = (int(headers[0].Rows), int(headers[0].Columns))
    if values.shape != (len(reference.frames), *rows_columns):
        raise ResultRejected(
            f"the mask's shape {values.shape} does not fit "
            f"{counted(len(reference.frames), 'frame')} of {rows_columns}"
        )
    if "PerFrameFunctionalGroupsSequence" not in headers[0]:
        return values
    ordered = np.zeros((int(headers[0].NumberOfFrames), *rows_columns), dtype=values.dtype)
    for plane, frame in zip(values, reference.frames, strict=True):
        ordered[frame.frame_number - 1] = plane
    return ordered


def _encode(parts: AnswerParts, series: SegmentationSeries, description: Mapping[str, Any]) -> Dataset:
    """Return a SEG: what every one of ours has.

    `description` holds the arguments of highdicom that belong to this one.
    """
    context, provenance, headers = parts.context, parts.provenance, parts.evidence[0]
    model = parts.result.plan.lesion.model
    stand_ins = stand_in(headers, context.sources[0], provenance)
    dataset = hd.seg.Segmentation(
        source_images=stand_ins.headers,
        series_instance_uid=provenance.uid(series.kind, "series"),
        series_number=context.settings.series_number_base + series.number_offset,
        series_description=clip_at_sentence(f"{series.title} ({WARNING})"),
        sop_instance_uid=provenance.uid(series.kind, "instance"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=PRODUCT,
        software_versions=context.software_version,
        device_serial_number=model.sha256[:16],
        content_description=clip_at_sentence(model.statement),
        content_creator_name="dicomnode^",
        institution_name=context.settings.institution_name or headers[0].get("InstitutionName"),
        series_date=provenance.date,
        series_time=provenance.time,
        content_date=provenance.date,
        content_time=provenance.time,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        max_fractional_value=LARGEST_FRACTION,
        omit_empty_frames=True,
        contributing_equipment=describe_equipment(parts.models, context.software_version, provenance),
        **description,
    )
    write_back(dataset, stand_ins.images)
    for item in dataset.SegmentSequence:
        item.SegmentDescription = plain_ascii(model.statement)
    # highdicom leaves out what is optional in General Series; without a body part dciodvfy asks for
    # Laterality.
    dataset.BodyPartExamined = "BRAIN"
    freeze_document(dataset, provenance)
    return dataset


def _describe_segment(plan: SegmentPlan, result: PipelineResult) -> hd.seg.SegmentDescription:
    description = hd.seg.SegmentDescription(
        segment_number=plan.number,
        segment_label=plan.label,
        segmented_property_category=codes.ABNORMAL_STRUCTURE,
        segmented_property_type=codes.LESION_OF_BRAIN,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identify_algorithm(result.plan),
        tracking_uid=plan.tracking_uid,
        tracking_id=plan.tracking_id,
        anatomic_regions=[codes.BRAIN],
        display_color=cielab_color(plan.color),
    )
    if plan.laterality in codes.SIDES:
        # highdicom has no slot for the side of a segment; it belongs into the item of the type (PS3.3
        # C.8.20.4, CID 244).
        side = hd.sr.CodedConcept.from_code(codes.SIDES[plan.laterality])
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return description
