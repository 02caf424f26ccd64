"""What each kind of result must have at its top level, and which values are fixed (PS3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from dicomnode.errors import ResultRejected
from dicomnode.results.verify.items import check_items
from dicomnode.settings.config import ResultForm, ResultKind

_SEGMENTATION = (
    *(
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "SeriesNumber",
        "ContentDate",
        "ContentTime",
    ),
    *(
        "ContentLabel",
        "Manufacturer",
        "ManufacturerModelName",
        "DeviceSerialNumber",
        "SoftwareVersions",
        "SegmentSequence",
    ),
    *(
        "DimensionIndexSequence",
        "DimensionOrganizationSequence",
        "ReferencedSeriesSequence",
        "SharedFunctionalGroupsSequence",
    ),
    *("PerFrameFunctionalGroupsSequence", "ContributingEquipmentSequence", "LossyImageCompression"),
)
_COMPANION = (
    *(
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SeriesNumber",
        "InstanceNumber",
        "ContentDate",
        "ContentTime",
    ),
    *(
        "Manufacturer",
        "ManufacturerModelName",
        "SoftwareVersions",
        "SeriesDescription",
        "ContributingEquipmentSequence",
    ),
)
_REPORT = (
    *(
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SeriesNumber",
        "ContentDate",
        "ContentTime",
        "Manufacturer",
    ),
    *(
        "ManufacturerModelName",
        "DeviceSerialNumber",
        "SoftwareVersions",
        "ContentSequence",
        "ConceptNameCodeSequence",
    ),
    *("CurrentRequestedProcedureEvidenceSequence", "ContributingEquipmentSequence"),
)
_TYPE_1 = {
    "seg": _SEGMENTATION,
    "seg-t1": _SEGMENTATION,
    "probability": (*_SEGMENTATION, "SegmentationFractionalType", "MaximumFractionalValue"),
    "pictures": (
        *_COMPANION,
        *(
            "ImageType",
            "BurnedInAnnotation",
            "PhotometricInterpretation",
            "Rows",
            "Columns",
            "PixelData",
            "ImageComments",
        ),
    ),
    "pdf": (
        *_COMPANION,
        "BurnedInAnnotation",
        "MIMETypeOfEncapsulatedDocument",
        "EncapsulatedDocument",
        "DocumentTitle",
    ),
    "ko": (
        *_COMPANION,
        "ContentSequence",
        "ConceptNameCodeSequence",
        "CurrentRequestedProcedureEvidenceSequence",
    ),
    "sr": _REPORT,
    "summary": _REPORT,
}
_OUTLINES = {"Modality": "SEG", "BodyPartExamined": "BRAIN"}
_UNVERIFIED_REPORT = {
    "Modality": "SR",
    "CompletionFlag": "COMPLETE",
    "VerificationFlag": "UNVERIFIED",
    "PreliminaryFlag": "PRELIMINARY",
}
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "seg": _OUTLINES,
    "seg-t1": _OUTLINES,
    "probability": {
        **_OUTLINES,
        "SOPClassUID": SegmentationStorage,
        "SegmentationFractionalType": "PROBABILITY",
    },
    "sr": _UNVERIFIED_REPORT,
    "summary": _UNVERIFIED_REPORT,
}
_COMPANION_FIXED: Mapping[str, Mapping[str, Any]] = {
    "pictures": {
        "Modality": "OT",
        "BurnedInAnnotation": "NO",
        "PhotometricInterpretation": "RGB",
        "BodyPartExamined": "BRAIN",
    },
    "pdf": {
        "Modality": "DOC",
        "BurnedInAnnotation": "YES",
        "MIMETypeOfEncapsulatedDocument": "application/pdf",
    },
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


def check_attributes(object_name: str, dataset: Dataset) -> None:
    """Refuse a result that lacks a required value or has another than the fixed one."""
    for keyword in _TYPE_1[object_name]:
        if dataset.get(keyword) in (None, "", []):
            raise ResultRejected(f"the {object_name} has no {keyword}")
    check_items(object_name, dataset)
    for keyword, value in {**_FIXED, **_COMPANION_FIXED}[object_name].items():
        if dataset.get(keyword) != value:
            raise ResultRejected(f"the {object_name}'s {keyword} is {dataset.get(keyword)!r}, not {value!r}")


def check_class(object_name: ResultKind, dataset: Dataset, form: ResultForm) -> None:
    """Refuse a result of another SOP class or encoding than the form asks for."""
    allowed: dict[str, tuple[object, ...]] = {
        "sr": (_REPORT_CLASSES[form.report],),
        "summary": (_REPORT_CLASSES[form.report],),
        "seg": _SEGMENTATION_TYPES[form.segmentation],
        "seg-t1": _SEGMENTATION_TYPES[form.segmentation],
        "probability": (("FRACTIONAL", 8),),
        "pictures": (_PICTURE_CLASSES[form.pictures],),
        "pdf": (EncapsulatedPDFStorage,),
        "ko": (KeyObjectSelectionDocumentStorage,),
    }
    outlines = "SegmentationType" in dataset
    written_form = (dataset.SegmentationType, dataset.BitsAllocated) if outlines else dataset.SOPClassUID
    if written_form not in allowed[object_name]:
        keywords = "SegmentationType and BitsAllocated are" if outlines else "SOPClassUID is"
        raise ResultRejected(f"the {form.kind_of(object_name)}'s {keywords} {written_form}")
