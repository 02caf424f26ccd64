"""The gate's own table of codes (PS3.16, SNOMED CT, UCUM), written a second time on purpose.

A wrong code in the builder's is seen here.

A test holds both tables against each other; a new measurement needs a row in each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LESION_OF_BRAIN = ("301766008", "SCT")
ABNORMAL_STRUCTURE = ("49755003", "SCT")
BRAIN = ("12738006", "SCT")
DERIVED_MEASUREMENTS = "126011"
REGIONS: Mapping[str, str] = {
    "frontal": "83251001",
    "parietal": "16630005",
    "temporal": "78277001",
    "occipital": "31065004",
    "insula": "36169008",
    "thalamus": "42695009",
    "cerebellum": "113305005",
    "brain-stem": "119238007",
}
POSITIVE_TITLE, NEGATIVE_TITLE = ("126000", "DCM"), ("18748-4", "LN")
PRESENT, ABSENT, UNDETERMINED = "52101004", "272519000", "373068000"
WITH_FINDINGS = frozenset({"111242", "111244"})
WITHOUT_FINDINGS = frozenset({"111241", "111243"})
NONE_SUCCEEDED = frozenset({"111245"})
SIDES: Mapping[str, str] = {"left": "7771000", "right": "24028007", "both": "51440002"}
CHANGE = "change"
CHANGES: Mapping[str, str] = {
    "new": "new",
    "grown": "15454001",
    "shrunk": "19776001",
    "unchanged": "260388006",
    "gone": "gone",
    "not imaged": "not-imaged",
}


@dataclass(frozen=True)
class ExpectedNumber:
    """How a measurement must be coded.

    Concept and unit as (value, scheme), and the values of all codes below it.
    """

    concept: tuple[str, str]
    unit: tuple[str, str]
    modifiers: frozenset[str] = frozenset()


_ML, _MM, _PERCENT, _ONE = ("ml", "UCUM"), ("mm", "UCUM"), ("%", "UCUM"), ("1", "UCUM")
_TIMES = ("{times}", "UCUM")
_TOTAL, _MAXIMUM, _MEAN, _SUM_OF_VOXELS = "255619001", "56851009", "373098007", "126030"
_VOLUME, _LONG_AXIS = ("118565006", "SCT"), ("103339001", "SCT")
NUMBERS: Mapping[str, ExpectedNumber] = {
    "volume": ExpectedNumber(_VOLUME, _ML, frozenset({_SUM_OF_VOXELS})),
    "total_volume": ExpectedNumber(_VOLUME, _ML, frozenset({_SUM_OF_VOXELS, _TOTAL})),
    "brain_volume": ExpectedNumber(_VOLUME, _ML, frozenset({_SUM_OF_VOXELS, BRAIN[0]})),
    "earlier_volume": ExpectedNumber(("earlier-volume", "99DICOMNODE"), _ML, frozenset({_SUM_OF_VOXELS})),
    "lesion_count": ExpectedNumber(("246206008", "SCT"), _ONE),
    "lesion_load": ExpectedNumber(("118586006", "SCT"), _PERCENT),
    "long_axis": ExpectedNumber(_LONG_AXIS, _MM),
    "greatest_long_axis": ExpectedNumber(_LONG_AXIS, _MM, frozenset({_MAXIMUM})),
    "maximum_3d_diameter": ExpectedNumber(("L0JK", "IBSI"), _MM, frozenset({_MAXIMUM})),
    # Of one image's signal only the ratio to the mirrored site is reported.
    "relative_signal_flair": ExpectedNumber(("flair-ratio", "99DICOMNODE"), _TIMES, frozenset({_MEAN})),
    "relative_signal_t1": ExpectedNumber(("t1-ratio", "99DICOMNODE"), _TIMES, frozenset({_MEAN})),
    "certainty": ExpectedNumber(("111012", "DCM"), _PERCENT, frozenset({_MEAN})),
    "calibrated_certainty": ExpectedNumber(("111012", "DCM"), _PERCENT, frozenset({"calibrated"})),
    "agreement": ExpectedNumber(("agreement", "99DICOMNODE"), _PERCENT, frozenset({_MEAN})),
}
"""Key: `pipeline.records.Measurement.name`."""
