"""The SOP class of each result in each form: what is proposed to a destination, and what the conformance statement lists."""

from __future__ import annotations

from collections.abc import Collection, Mapping

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

from dicomnode.config import PictureForm, ReportForm, ResultForm

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


FALLBACK_CLASSES = (*REPORT_CLASSES.values(), *PICTURE_CLASSES.values(), str(EncapsulatedPDFStorage))
"""What is proposed besides, to see what a destination that refuses something would take instead."""


def fallbacks(form: ResultForm, accepted: Collection[str]) -> tuple[str, ...]:
    """Return the settings of a destination that would suit it better, given the SOP classes that it accepts; empty when nothing is refused.

    >>> fallbacks(ResultForm(), [SegmentationStorage, ComprehensiveSRStorage])
    ('report = "comprehensive"',)
    """
    refused = {part for part, sop_class in classes_of(form).items() if sop_class not in accepted}
    advice = []
    if "sr" in refused:
        advice += [f'report = "{name}"' for name, sop_class in REPORT_CLASSES.items() if sop_class in accepted][:1]
    if "pictures" in refused:
        advice += [f'pictures = "{name}"' for name, sop_class in PICTURE_CLASSES.items() if sop_class in accepted][:1]
    if refused & {"seg", "seg-t1", "probability"}:
        takes = [name for name, sop_class in PICTURE_CLASSES.items() if sop_class in accepted and "pictures" not in form.objects]
        advice += [f'"pictures" in objects with pictures = "{name}"' for name in takes[:1]]
        if not takes and "pdf" not in form.objects and str(EncapsulatedPDFStorage) in accepted:
            advice.append('"pdf" in objects')
    return tuple(advice)


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
        "ko": KeyObjectSelectionDocumentStorage,
    }
    return {part: str(classes[part]) for part in form.objects}
