"""Part of the last gate.

The items of a result's sequences have what they must have (type 1 of PS3.3), however deep they lie.

Only sequences that we make are looked at: those that are copied from the source are as the source has them.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected

_CODE = ("CodingSchemeDesignator", "CodeMeaning")
_CODE_VALUES = ("CodeValue", "LongCodeValue", "URNCodeValue")
_REFERENCE = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")
_ITEMS: Mapping[str, tuple[str, ...]] = {
    # Segments, PS3.3 C.8.20.2 and C.8.20.4, and how they were made, 10.16.
    "SegmentSequence": (
        *("SegmentNumber", "SegmentLabel", "SegmentAlgorithmType"),
        *("SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"),
    ),
    "SegmentedPropertyCategoryCodeSequence": _CODE,
    "SegmentedPropertyTypeCodeSequence": _CODE,
    "SegmentationAlgorithmIdentificationSequence": (
        "AlgorithmFamilyCodeSequence",
        "AlgorithmName",
        "AlgorithmVersion",
    ),
    "AlgorithmFamilyCodeSequence": _CODE,
    # Frames, C.7.6.16 and C.7.6.17.
    "SharedFunctionalGroupsSequence": (),
    "PerFrameFunctionalGroupsSequence": (),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "SegmentIdentificationSequence": ("ReferencedSegmentNumber",),
    "FrameContentSequence": ("DimensionIndexValues",),
    "DerivationImageSequence": ("DerivationCodeSequence",),
    "DerivationCodeSequence": _CODE,
    "SourceImageSequence": _REFERENCE,
    "PurposeOfReferenceCodeSequence": _CODE,
    "DimensionOrganizationSequence": ("DimensionOrganizationUID",),
    "DimensionIndexSequence": ("DimensionIndexPointer",),
    # What is pointed to, C.12.1 and C.17.2.
    "ReferencedSeriesSequence": ("SeriesInstanceUID",),
    "ReferencedInstanceSequence": _REFERENCE,
    "CurrentRequestedProcedureEvidenceSequence": ("StudyInstanceUID", "ReferencedSeriesSequence"),
    "ReferencedSOPSequence": _REFERENCE,
    # Content items, C.17.3; what each kind must have besides stands below.
    "ContentSequence": ("RelationshipType", "ValueType"),
    "ConceptNameCodeSequence": _CODE,
    "ConceptCodeSequence": _CODE,
    "MeasuredValueSequence": ("NumericValue", "MeasurementUnitsCodeSequence"),
    "MeasurementUnitsCodeSequence": _CODE,
}
_OF_VALUE_TYPE: Mapping[str, tuple[str, ...]] = {
    "CODE": ("ConceptNameCodeSequence", "ConceptCodeSequence"),
    "DATETIME": ("DateTime",),
    "IMAGE": ("ReferencedSOPSequence",),
    "NUM": ("ConceptNameCodeSequence", "MeasuredValueSequence"),
    "PNAME": ("PersonName",),
    "SCOORD": ("GraphicType", "GraphicData"),
    "TEXT": ("ConceptNameCodeSequence", "TextValue"),
    "UIDREF": ("ConceptNameCodeSequence", "UID"),
}


def check_items(object_name: str, dataset: Dataset) -> None:
    """Refuse a result an item of which lacks a required value."""
    for element in dataset:
        required = _ITEMS.get(element.keyword)
        if required is None:
            continue
        keyword = element.keyword
        for item in element.value or ():
            _require(
                object_name, keyword, item, (*required, *_OF_VALUE_TYPE.get(str(item.get("ValueType")), ()))
            )
            if required is _CODE and not any(item.get(value) for value in _CODE_VALUES):
                raise ResultRejected(f"an item of the {object_name}'s {keyword} has no CodeValue")
            check_items(object_name, item)


def _require(object_name: str, sequence: str, item: Dataset, required: tuple[str, ...]) -> None:
    for keyword in required:
        if item.get(keyword) in (None, "", []):
            raise ResultRejected(f"an item of the {object_name}'s {sequence} has no {keyword}")
