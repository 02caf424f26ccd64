"""The SOP class of each result in each form.

What is proposed to a destination, and what the conformance statement lists.
"""

from __future__ import annotations

from collections.abc import Mapping

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

from dicomnode.settings.config import PictureForm, ReportForm, ResultForm

# Of 2024 (Supplement 243); pydicom 3.0 has no name for it.
LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
REPORT_CLASSES: Mapping[ReportForm, str] = {
    "comprehensive-3d": Comprehensive3DSRStorage,
    "comprehensive": ComprehensiveSRStorage,
    "enhanced": EnhancedSRStorage,
}
PICTURE_CLASSES: Mapping[PictureForm, str] = {
    "multi-frame": MultiFrameTrueColorSecondaryCaptureImageStorage,
    "single-frame": SecondaryCaptureImageStorage,
}


RESULT_CLASSES = (
    str(SegmentationStorage),
    LABEL_MAP_SEGMENTATION,
    *REPORT_CLASSES.values(),
    *PICTURE_CLASSES.values(),
    str(EncapsulatedPDFStorage),
    str(KeyObjectSelectionDocumentStorage),
)
"""Everything that can go to a destination: what it is asked about, to see what suits it."""


def classes_of(form: ResultForm) -> dict[str, str]:
    """Return the SOP Class UID of everything that goes out in this form, by result."""
    outlines = LABEL_MAP_SEGMENTATION if form.segmentation == "labelmap" else SegmentationStorage
    classes = {
        "seg": outlines,
        "seg-t1": outlines,
        "probability": SegmentationStorage,
        "pictures": PICTURE_CLASSES[form.pictures],
        "pdf": EncapsulatedPDFStorage,
        "sr": REPORT_CLASSES[form.report],
        "summary": REPORT_CLASSES[form.report],
        "ko": KeyObjectSelectionDocumentStorage,
    }
    return {object_kind: str(classes[object_kind]) for object_kind in form.objects}
