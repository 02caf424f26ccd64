"""DICOM Segmentation (PS3.3 A.51): BINARY, native, on the reference series' own grid, one segment per lesion.

Native Explicit VR Little Endian and one referenced series are not taste: other encodings fail in dcmqi, Slicer or Weasis, and a
second referenced series makes OHIF show nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.errors import ResultRejected
from dicomnode.records import SourceSeries
from dicomnode.results import codes
from dicomnode.results.provenance import (
    MANUFACTURER,
    PRODUCT,
    AnswerContext,
    Provenance,
    describe_equipment,
    freeze_document,
    identify_algorithm,
    lesion_model,
)
from dicomnode.results.segments import SegmentPlan, cielab_color, draw_segments
from dicomnode.results.wording import WARNING, clip_at_sentence, plain_ascii
from pipeline.records import Array, PipelineResult


def build_segmentation(
    context: AnswerContext,
    result: PipelineResult,
    headers: Sequence[Dataset],
    plans: Sequence[SegmentPlan],
    provenance: Provenance,
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
    reference = context.sources[0]
    mask = order_as_source(draw_segments(result.labels.array, plans), reference, headers)
    model = lesion_model(result)
    dataset = hd.seg.Segmentation(
        source_images=headers,
        pixel_array=mask,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe_segment(plan, result) for plan in plans],
        series_instance_uid=provenance.uid("seg", "series"),
        series_number=context.settings.series_number_base,
        sop_instance_uid=provenance.uid("seg", "instance"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=PRODUCT,
        software_versions=context.software_version,
        device_serial_number=model.sha256[:16],
        content_label="STROKE_LESIONS",
        content_description=clip_at_sentence(model.statement),
        content_creator_name="dicomnode^",
        series_description=clip_at_sentence(f"Stroke lesions ({WARNING})"),
        institution_name=context.settings.institution_name or headers[0].get("InstitutionName"),
        series_date=provenance.date,
        series_time=provenance.time,
        content_date=provenance.date,
        content_time=provenance.time,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
        contributing_equipment=describe_equipment(result.models, context.software_version, provenance),
    )
    for item in dataset.SegmentSequence:
        item.SegmentDescription = plain_ascii(model.statement)
    # highdicom leaves out what is optional in General Series; without a body part dciodvfy asks for Laterality.
    dataset.BodyPartExamined = "BRAIN"
    freeze_document(dataset, provenance)
    return dataset


def order_as_source(mask: Array, reference: SourceSeries, headers: Sequence[Dataset]) -> Array:
    """Return the mask's slices in the order of the source's frames.

    Classic headers are already in the order of the slices. In a multi-frame image slice k is frame `frames[k].frame_number`;
    frames that are no slice stay empty.
    """
    rows_columns = (int(headers[0].Rows), int(headers[0].Columns))
    if mask.shape != (len(reference.frames), *rows_columns):
        raise ResultRejected(f"the mask's shape {mask.shape} does not fit {len(reference.frames)} frames of {rows_columns}")
    if "PerFrameFunctionalGroupsSequence" not in headers[0]:
        return mask
    ordered = np.zeros((int(headers[0].NumberOfFrames), *rows_columns), dtype=mask.dtype)
    for plane, frame in zip(mask, reference.frames, strict=True):
        ordered[frame.frame_number - 1] = plane
    return ordered


def _describe_segment(plan: SegmentPlan, result: PipelineResult) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=plan.number,
        segment_label=plan.label,
        segmented_property_category=codes.ABNORMAL_STRUCTURE,
        segmented_property_type=codes.LESION_OF_BRAIN,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identify_algorithm(result),
        tracking_uid=plan.tracking_uid,
        tracking_id=plan.tracking_id,
        anatomic_regions=[codes.BRAIN],
        display_color=cielab_color(plan.color),
    )
