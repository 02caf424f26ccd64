"""The lesions as a table: one row each, with everything that was measured.

What was not measured is left empty.
"""

from __future__ import annotations

from collections.abc import Mapping

from dicomnode.results.words.measured import MEASURED, row_of
from pipeline.records import Lesion

_COLUMN_OF: Mapping[str, str] = {name: row.column for name, row in MEASURED.items() if row.column}
_PLACE_LPS = ("x_lps_mm", "y_lps_mm", "z_lps_mm")
_PLACE_MNI = ("x_mni_mm", "y_mni_mm", "z_mni_mm")
_WORDS: Mapping[str, Mapping[str, str]] = {
    "laterality": {"Description": "Side of the patient's own midsagittal plane"},
    "x_lps_mm": {"Description": "Centre, to the patient's left", "Units": "mm"},
    "y_lps_mm": {"Description": "Centre, to posterior", "Units": "mm"},
    "z_lps_mm": {"Description": "Centre, to the head", "Units": "mm"},
    "mean_probability": {"Description": "Mean of the network's own, uncalibrated, probability"},
    "certainty": {
        "Description": "Certainty as the report gives it, 0 to 1; the report says whether it is calibrated"
    },
    "x_mni_mm": {
        "Description": "Centre in the MNI template (ICBM 152 2009a), to the right; affine registration",
        "Units": "mm",
    },
    "y_mni_mm": {"Description": "Centre in the MNI template, to the front", "Units": "mm"},
    "z_mni_mm": {"Description": "Centre in the MNI template, to the head", "Units": "mm"},
    "mean_agreement": {"Description": "How far the network's passes agreed, 0 to 1"},
}
COLUMNS = (
    "label",
    "laterality",
    *_COLUMN_OF.values(),
    *_PLACE_LPS,
    *_PLACE_MNI,
    "mean_probability",
    "certainty",
    "mean_agreement",
)
COLUMN_WORDS: Mapping[str, Mapping[str, str]] = {
    **_WORDS,
    **{MEASURED[name].column: MEASURED[name].bids for name in _COLUMN_OF},
}
"""What the sidecar of a BIDS table says of each column but the label."""


def lesion_row(lesion: Lesion) -> dict[str, str]:
    """Return one lesion as column to text.

    Raises
    ------
    ResultRejected
        A measurement has no row in the table of measurements.
    """
    values = {row_of(item.name).column: item.value for item in lesion.measurements}
    numbers: dict[str, float | None] = {column: values.get(column) for column in _COLUMN_OF.values()}
    numbers |= dict(zip(_PLACE_LPS, lesion.centroid_lps_mm, strict=True))
    numbers |= dict(zip(_PLACE_MNI, lesion.centroid_mni_mm or (None,) * 3, strict=True))
    numbers |= {"mean_probability": lesion.mean_probability, "certainty": lesion.certainty}
    numbers["mean_agreement"] = lesion.mean_agreement
    written = {column: "" if number is None else f"{number:.3f}" for column, number in numbers.items()}
    return {"label": str(lesion.label), "laterality": lesion.laterality, **written}
