"""The lesions as a table: one row each, with everything that was measured; what was not measured is left empty."""

from __future__ import annotations

from pipeline.records import Lesion

# Column to the measurement's name.
_MEASURED = {
    "volume_ml": "volume",
    "long_axis_mm": "long_axis",
    "maximum_3d_diameter_mm": "maximum_3d_diameter",
    "mean_flair": "mean_intensity_flair",
    "mirrored_flair": "mirrored_intensity_flair",
    "mean_t1": "mean_intensity_t1",
    "mirrored_t1": "mirrored_intensity_t1",
}
_PLACE_LPS = ("x_lps_mm", "y_lps_mm", "z_lps_mm")
_PLACE_MNI = ("x_mni_mm", "y_mni_mm", "z_mni_mm")
COLUMNS = ("label", "laterality", *_MEASURED, *_PLACE_LPS, *_PLACE_MNI, "mean_probability", "mean_agreement")


def lesion_row(lesion: Lesion) -> dict[str, str]:
    """Return one lesion as column to text."""
    values = {item.name: item.value for item in lesion.measurements}
    numbers = {column: values.get(name) for column, name in _MEASURED.items()}
    numbers |= dict(zip(_PLACE_LPS, lesion.centroid_lps_mm, strict=True))
    numbers |= dict(zip(_PLACE_MNI, lesion.centroid_mni_mm or (None,) * 3, strict=True))
    numbers |= {"mean_probability": lesion.mean_probability, "mean_agreement": lesion.mean_agreement}
    written = {column: "" if number is None else f"{number:.3f}" for column, number in numbers.items()}
    return {"label": str(lesion.label), "laterality": lesion.laterality, **written}
