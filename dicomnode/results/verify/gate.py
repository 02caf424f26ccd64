"""The last gate: every result is read back from its bytes and compared with what the pipeline found, in patient space.

Rules for this file:
1. It trusts nothing of the code that built the results: it reads bytes with pydicom and shares no function with seg.py or sr.py.
2. Any doubt raises `ResultRejected`; nothing is corrected here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from dicomnode.errors import ResultRejected
from dicomnode.records import SourceSeries
from dicomnode.results.headers import read_header, repair_identity
from dicomnode.results.records import AnswerContext, EncodedResult
from dicomnode.results.verify.companions import check_key_objects, check_mark, check_pdf, check_pictures
from dicomnode.results.verify.items import check_items
from dicomnode.results.verify.mask import check_mask, check_probability, check_second_mask, check_segments
from dicomnode.results.verify.report import check_report
from dicomnode.settings.config import ResultForm, ResultKind
from pipeline.records import PipelineResult, Volume

_SEGMENTATION = (
    *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "ContentDate", "ContentTime"),
    *("ContentLabel", "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "SegmentSequence"),
    *("DimensionIndexSequence", "DimensionOrganizationSequence", "ReferencedSeriesSequence", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", "ContributingEquipmentSequence", "LossyImageCompression"),
)
_COMPANION = (
    *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "ContentDate", "ContentTime"),
    *("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "SeriesDescription", "ContributingEquipmentSequence"),
)
_TYPE_1 = {
    "seg": _SEGMENTATION,
    "seg-t1": _SEGMENTATION,
    "probability": (*_SEGMENTATION, "SegmentationFractionalType", "MaximumFractionalValue"),
    "pictures": (
        *_COMPANION,
        *("ImageType", "BurnedInAnnotation", "PhotometricInterpretation", "Rows", "Columns", "PixelData", "ImageComments"),
    ),
    "pdf": (*_COMPANION, "BurnedInAnnotation", "MIMETypeOfEncapsulatedDocument", "EncapsulatedDocument", "DocumentTitle"),
    "ko": (*_COMPANION, "ContentSequence", "ConceptNameCodeSequence", "CurrentRequestedProcedureEvidenceSequence"),
    "sr": (
        *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "ContentDate", "ContentTime", "Manufacturer"),
        *("ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "ContentSequence", "ConceptNameCodeSequence"),
        *("CurrentRequestedProcedureEvidenceSequence", "ContributingEquipmentSequence"),
    ),
}
_OUTLINES = {"Modality": "SEG", "BodyPartExamined": "BRAIN"}
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "seg": _OUTLINES,
    "seg-t1": _OUTLINES,
    "probability": {**_OUTLINES, "SOPClassUID": SegmentationStorage, "SegmentationFractionalType": "PROBABILITY"},
    "sr": {"Modality": "SR", "CompletionFlag": "COMPLETE", "VerificationFlag": "UNVERIFIED", "PreliminaryFlag": "PRELIMINARY"},
}
_COMPANION_FIXED: Mapping[str, Mapping[str, Any]] = {
    "pictures": {"Modality": "OT", "BurnedInAnnotation": "NO", "PhotometricInterpretation": "RGB", "BodyPartExamined": "BRAIN"},
    "pdf": {"Modality": "DOC", "BurnedInAnnotation": "YES", "MIMETypeOfEncapsulatedDocument": "application/pdf"},
    "ko": {"Modality": "KO"},
}
_REPORT_CLASSES: Mapping[str, str] = {
    "comprehensive-3d": Comprehensive3DSRStorage,
    "comprehensive": ComprehensiveSRStorage,
    "enhanced": EnhancedSRStorage,
}
_PICTURE_CLASSES: Mapping[str, str] = {
    "multi-frame": MultiFrameTrueColorSecondaryCaptureImageStorage,
    "single-frame": SecondaryCaptureImageStorage,
}
_SEGMENTATION_TYPES: Mapping[str, tuple[tuple[str, int], ...]] = {
    "binary": (("BINARY", 1),),
    "pseudo-fractional": (("FRACTIONAL", 8),),
    "auto": (("BINARY", 1), ("FRACTIONAL", 8)),
    "labelmap": (("LABELMAP", 8),),
}
_ALWAYS: frozenset[ResultKind] = frozenset({"pictures", "pdf"})
"""What answers a study without lesions, besides the report."""
_IDENTITY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime")


def verify_answer(
    results: Sequence[EncodedResult], context: AnswerContext, volume: Volume, result: PipelineResult, second: Volume | None = None
) -> None:
    """Prove that the encoded results say what the pipeline found, where it found it.

    Parameters
    ----------
    results
        What `build_answer` made for the forms of `context`.
    volume
        The reference volume.
    second
        The T1 of a study whose reference is the FLAIR.

    Raises
    ------
    ResultRejected
        With the first difference that was seen.
    """
    sources = context.sources
    if sources[0].role != result.reference_role:
        raise ResultRejected(f"the result lies on the {result.reference_role}, but is to point to the {sources[0].role}")
    by_kind = read_all(results, sources[0].frames[0].path)
    expected = {form.kind_of(part) for form in context.forms for part in _expected_parts(form, result, second)}
    if set(by_kind) != expected or any(len(objects) > 1 for kind, objects in by_kind.items() if not kind.startswith("pictures")):
        raise ResultRejected(f"expected results {sorted(expected)}, got {sorted(item.kind for item in results)}")
    for form in context.forms:
        _verify_form(form, by_kind, context, volume, result, second)


def verify_refusal(results: Sequence[EncodedResult], context: AnswerContext) -> None:
    """Prove that what says why there is no segmentation is whole and belongs to the study of the context's template.

    Raises
    ------
    ResultRejected
        With the first difference that was seen.
    """
    by_kind = read_all(results, context.template)
    parts_of = {form: sorted({"sr", *_ALWAYS.intersection(form.objects)}) for form in context.forms}
    expected = sorted({form.kind_of(part) for form, parts in parts_of.items() for part in parts})
    if sorted(item.kind for item in results) != expected:
        raise ResultRejected(f"expected {expected}, got {sorted(item.kind for item in results)}")
    for form, parts in parts_of.items():
        for part in parts:
            (dataset,) = by_kind[form.kind_of(part)]
            check_attributes(part, dataset)
            check_class(part, dataset, form)
            if part == "sr":
                check_predecessors(dataset, context)
            else:
                _check_shown(part, [dataset], None, None)


def read_all(results: Sequence[EncodedResult], template: Path) -> dict[str, list[Dataset]]:
    """Read every result back, hold it against the patient and study of `template`, and return them by kind."""
    identity = read_header(template)
    by_kind: dict[str, list[Dataset]] = {}
    for item in results:
        dataset = read_back(item)
        check_identity(dataset, identity)
        by_kind.setdefault(item.kind, []).append(dataset)
    return by_kind


def _check_shown(part: ResultKind, objects: Sequence[Dataset], result: PipelineResult | None, source: SourceSeries | None) -> None:
    for dataset in objects:
        check_mark(dataset)
        if part == "pdf":
            check_pdf(dataset)
    if part == "pictures":
        check_pictures(objects, result, source)


def _expected_parts(form: ResultForm, result: PipelineResult, second: Volume | None) -> set[ResultKind]:
    """Return what an answer must have: always the report, and with lesions the SEG that it points to."""
    if not result.lesions:
        return {"sr", *_ALWAYS.intersection(form.objects)}
    parts: set[ResultKind] = {"seg", "sr", *form.objects}
    if second is None or "t1" not in result.links:
        parts.discard("seg-t1")
    return parts


def _verify_form(
    form: ResultForm,
    by_kind: Mapping[str, list[Dataset]],
    context: AnswerContext,
    volume: Volume,
    result: PipelineResult,
    second: Volume | None,
) -> None:
    """Prove the objects of one form against the pipeline and against each other."""
    segmentation: Dataset | None = None
    for part in sorted(_expected_parts(form, result, second)):
        for dataset in by_kind[form.kind_of(part)]:
            check_attributes(part, dataset)
            check_class(part, dataset, form)
    if result.lesions:
        (segmentation,) = by_kind[form.kind_of("seg")]
        check_segments(segmentation, result)
        check_mask(segmentation, volume, result, context.sources[0])
    for dataset in by_kind.get(form.kind_of("probability"), []):
        check_probability(dataset, volume, result, context.sources[0])
    for dataset in by_kind.get(form.kind_of("seg-t1"), []):
        check_segments(dataset, result)
        link = result.links["t1"]
        assert second is not None
        source = next(source for source in context.sources if source.role == "t1")
        check_second_mask(dataset, second, link, result, source)
    for part in form.objects:
        _check_shown(part, by_kind.get(form.kind_of(part), []), result, context.sources[0])
    for dataset in by_kind.get(form.kind_of("ko"), []):
        assert segmentation is not None
        check_key_objects(dataset, segmentation, context.sources[0])
    (report,) = by_kind[form.kind_of("sr")]
    check_predecessors(report, context)
    check_report(report, segmentation, result, context.sources)


def read_back(item: EncodedResult) -> Dataset:
    """Read a result from its bytes, whole, and hold it against its own label."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(item.data))
        dataset.walk(lambda _, element: element.value)
    except (InvalidDicomError, ValueError, EOFError) as problem:
        raise ResultRejected(f"the {item.kind} cannot be read back: {problem}") from problem
    if dataset.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian:
        raise ResultRejected(f"the {item.kind} is not Explicit VR Little Endian")
    for keyword in ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID"):
        if dataset.get(keyword) != getattr(item, keyword):
            raise ResultRejected(f"the {item.kind} has another {keyword} than it is labelled with")
    meta = dataset.file_meta
    if (meta.MediaStorageSOPInstanceUID, meta.MediaStorageSOPClassUID) != (dataset.SOPInstanceUID, dataset.SOPClassUID):
        raise ResultRejected(f"the {item.kind}'s file meta information names another instance")
    return dataset


def check_attributes(part: str, dataset: Dataset) -> None:
    """Refuse a result that lacks a required value or has another than the fixed one."""
    for keyword in _TYPE_1[part]:
        if dataset.get(keyword) in (None, "", []):
            raise ResultRejected(f"the {part} has no {keyword}")
    check_items(part, dataset)
    for keyword, value in {**_FIXED, **_COMPANION_FIXED}[part].items():
        if dataset.get(keyword) != value:
            raise ResultRejected(f"the {part}'s {keyword} is {dataset.get(keyword)!r}, not {value!r}")


def check_class(part: ResultKind, dataset: Dataset, form: ResultForm) -> None:
    """Refuse a result of another SOP class or encoding than the form asks for."""
    allowed: dict[str, tuple[object, ...]] = {
        "sr": (_REPORT_CLASSES[form.report],),
        "seg": _SEGMENTATION_TYPES[form.segmentation],
        "seg-t1": _SEGMENTATION_TYPES[form.segmentation],
        "probability": (("FRACTIONAL", 8),),
        "pictures": (_PICTURE_CLASSES[form.pictures],),
        "pdf": (EncapsulatedPDFStorage,),
        "ko": (KeyObjectSelectionDocumentStorage,),
    }
    outlines = "SegmentationType" in dataset
    seen = (dataset.SegmentationType, dataset.BitsAllocated) if outlines else dataset.SOPClassUID
    if seen not in allowed[part]:
        keywords = "SegmentationType and BitsAllocated are" if outlines else "SOPClassUID is"
        raise ResultRejected(f"the {form.kind_of(part)}'s {keywords} {seen}")


def check_predecessors(report: Dataset, context: AnswerContext) -> None:
    """Refuse a report that replaces itself, or one that nobody got."""
    sent = {earlier.SOPInstanceUID for earlier in context.earlier_reports}
    for study in report.get("PredecessorDocumentsSequence", []):
        for series in study.ReferencedSeriesSequence:
            for item in series.ReferencedSOPSequence:
                if item.ReferencedSOPInstanceUID not in sent or item.ReferencedSOPInstanceUID == report.SOPInstanceUID:
                    raise ResultRejected("the report replaces a report that was not sent before it")


def check_identity(dataset: Dataset, source: Dataset) -> None:
    """Refuse a result that belongs to another study or patient than its source."""
    if dataset.StudyInstanceUID != source.StudyInstanceUID:
        raise ResultRejected("the result belongs to another study than its source")
    wanted = repair_identity(source)
    for keyword in _IDENTITY:
        if str(dataset.get(keyword) or "") != str(wanted.get(keyword) or ""):
            # Which element, never its value: patient data stays out of messages.
            raise ResultRejected(f"the result's {keyword} differs from its source's")
