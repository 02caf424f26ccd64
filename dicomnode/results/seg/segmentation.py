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
from dicomnode.results.provenance import (
    MANUFACTURER,
    PRODUCT,
    Provenance,
    describe_equipment,
    freeze_document,
    identify_algorithm,
)
from dicomnode.results.records import AnswerContext
from dicomnode.results.seg.references import stand_in, write_back
from dicomnode.results.seg.segments import SegmentPlan, cielab_color, draw_segments, segment_color
from dicomnode.results.words import codes
from dicomnode.results.words.sentences import WARNING, clip_at_sentence, plain_ascii
from dicomnode.settings.config import SegmentationForm
from pipeline.records import Array, PipelineResult

LARGEST_FRACTION = 255
"""Maximum Fractional Value of SEGs with 8 bits (PS3.3 C.8.20.2)."""
_TYPES: Mapping[SegmentationForm, hd.seg.SegmentationTypeValues] = {
    "binary": hd.seg.SegmentationTypeValues.BINARY,
    "pseudo-fractional": hd.seg.SegmentationTypeValues.FRACTIONAL,
    "labelmap": hd.seg.SegmentationTypeValues.LABELMAP,
}


@dataclass(frozen=True)
class SegmentationPlan:
    """One SEG among those of an answer.

    Attributes
    ----------
    kind
        Name of its form (`ResultForm.kind_of`); it goes into the UIDs.
    series_offset
        Its Series Number, counted from the first of the results.
    """

    kind: str = "seg"
    encoding: SegmentationForm = "binary"
    series_offset: int = 0
    title: str = "Stroke lesions"


PLAIN = SegmentationPlan()


def build_segmentation(
    context: AnswerContext,
    result: PipelineResult,
    headers: Sequence[Dataset],
    plans: Sequence[SegmentPlan],
    provenance: Provenance,
    form: SegmentationPlan = PLAIN,
) -> Dataset:
    """Return the SEG of a result with at least one lesion.

    Parameters
    ----------
    headers
        Repaired headers of the reference series, in the order of its frames (`read_source`).

    Raises
    ------
    ResultRejected
        The mask does not lie on the source's grid.
    """
    mask = order_as_source(draw_segments(result.labels.array, plans), context.sources[0], headers)
    description = {
        "pixel_array": mask,
        "segmentation_type": _TYPES[form.encoding],
        "fractional_type": hd.seg.SegmentationFractionalTypeValues.OCCUPANCY,
        "segment_descriptions": [_describe_segment(plan, result) for plan in plans],
        "content_label": "STROKE_LESIONS",
    }
    return _encode(context, result, headers, context.sources[0], provenance, form, description)


def build_probability(
    context: AnswerContext, result: PipelineResult, headers: Sequence[Dataset], provenance: Provenance
) -> Dataset:
    """Return the lesion probability on the reference series' grid as a FRACTIONAL SEG of one segment.

    Parameters as above.
    """
    title = "Lesion probability"
    segment = SegmentPlan(1, result.lesions, title, title, provenance.uid(title), segment_color(1))
    probability = order_as_source(result.probability.array, context.sources[0], headers)
    description = {
        "pixel_array": np.clip(probability, 0, 1)[..., np.newaxis],
        "segmentation_type": hd.seg.SegmentationTypeValues.FRACTIONAL,
        "fractional_type": hd.seg.SegmentationFractionalTypeValues.PROBABILITY,
        "segment_descriptions": [_describe_segment(segment, result)],
        "content_label": "LESION_PROB",
    }
    form = SegmentationPlan("probability", series_offset=5, title=title)
    return _encode(context, result, headers, context.sources[0], provenance, form, description)


def order_as_source(values: Array, reference: SourceSeries, headers: Sequence[Dataset]) -> Array:
    """Return a volume's slices in the order of the source's frames.

    Classic headers are already in the order of the slices. In a multi-frame image slice k is frame
    `frames[k].frame_number`; frames that are no slice stay empty.
    """
    rows_columns = (int(headers[0].Rows), int(headers[0].Columns))
    if values.shape != (len(reference.frames), *rows_columns):
        raise ResultRejected(
            f"the mask's shape {values.shape} does not fit {len(reference.frames)} frames of {rows_columns}"
        )
    if "PerFrameFunctionalGroupsSequence" not in headers[0]:
        return values
    ordered = np.zeros((int(headers[0].NumberOfFrames), *rows_columns), dtype=values.dtype)
    for plane, frame in zip(values, reference.frames, strict=True):
        ordered[frame.frame_number - 1] = plane
    return ordered


def _encode(
    context: AnswerContext,
    result: PipelineResult,
    headers: Sequence[Dataset],
    source: SourceSeries,
    provenance: Provenance,
    form: SegmentationPlan,
    description: Mapping[str, Any],
) -> Dataset:
    """Return a SEG: what every one of ours has.

    `description` holds the arguments of highdicom that belong to this one.
    """
    model = result.plan.lesion.model
    stand_ins = stand_in(headers, source, provenance)
    dataset = hd.seg.Segmentation(
        source_images=stand_ins.headers,
        series_instance_uid=provenance.uid(form.kind, "series"),
        series_number=context.settings.series_number_base + form.series_offset,
        series_description=clip_at_sentence(f"{form.title} ({WARNING})"),
        sop_instance_uid=provenance.uid(form.kind, "instance"),
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
        contributing_equipment=describe_equipment(result.models, context.software_version, provenance),
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
