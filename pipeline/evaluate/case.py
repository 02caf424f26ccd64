"""All figures of one case: a predicted mask against its truth on the same grid."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import GeometryError
from pipeline.evaluate.lesions import LesionCounts, count_lesions
from pipeline.evaluate.overlap import count_overlap
from pipeline.evaluate.surface import measure_surface_distances
from pipeline.geometry import LARGEST_SHEAR, same_grid, shear, spacing_mm, voxel_volume_mm3
from pipeline.records import Volume


@dataclass(frozen=True)
class CaseScore:
    """One case; distances in mm, volumes in ml, NaN where a figure is not defined.

    When a figure is defined stands in `overlap`, `surface` and `lesions`.
    """

    name: str
    true_ml: float
    predicted_ml: float
    dice: float
    jaccard: float
    precision: float
    sensitivity: float
    average_distance_mm: float
    distance_95_mm: float
    lesions: LesionCounts

    @property
    def volume_error_ml(self) -> float:
        """Predicted minus true."""
        return self.predicted_ml - self.true_ml

    @property
    def lesion_f1(self) -> float:
        """Lesion-wise F1 of this case alone."""
        return self.lesions.f1


def score_case(name: str, prediction: Volume, truth: Volume, minimum_lesion_ml: float = 0.0) -> CaseScore:
    """Compare two masks (everything above 0 is lesion).

    Raises
    ------
    GeometryError
        The masks do not lie on one grid ("grid-mismatch"), or its axes are not perpendicular.
    """
    if not same_grid(prediction, truth):
        raise GeometryError(f"{name}: prediction and truth do not lie on one grid", code="grid-mismatch")
    if (measured_shear := shear(truth.affine)) > LARGEST_SHEAR:
        raise GeometryError(
            (
                f"{name}: the axes of the grid are not perpendicular (cosine {measured_shear:.3f}); "
                "distances would be wrong"
            ),
            code="axes-not-perpendicular",
        )
    voxel_ml = voxel_volume_mm3(truth.affine) / 1000
    predicted, true = prediction.array > 0, truth.array > 0
    overlap = count_overlap(predicted, true)
    surface = measure_surface_distances(predicted, true, spacing_mm(truth.affine))
    return CaseScore(
        name=name,
        true_ml=overlap.true * voxel_ml,
        predicted_ml=overlap.predicted * voxel_ml,
        dice=overlap.dice,
        jaccard=overlap.jaccard,
        precision=overlap.precision,
        sensitivity=overlap.sensitivity,
        average_distance_mm=surface.average_mm,
        distance_95_mm=surface.percentile_95_mm,
        lesions=count_lesions(predicted, true, minimum_lesion_ml / voxel_ml),
    )
