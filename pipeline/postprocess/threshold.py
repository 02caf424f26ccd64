"""From probability to voxels that count."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import SimpleITK

from pipeline.geometry import spacing_mm
from pipeline.records import FloatArray, Volume


def apply_brain_limit(probability: Volume, brain_mask: Volume, margin_mm: float) -> Volume:
    """Set the probability to zero further than `margin_mm` outside the brain."""
    near = brain_mask.array > 0
    if margin_mm > 0:
        near = _distance_mm(brain_mask) <= margin_mm
    return probability.with_array(probability.array * near)


def apply_threshold(probability: FloatArray, threshold: float) -> npt.NDArray[np.uint8]:
    """Return 1 where the probability is at or above the threshold."""
    return (probability >= threshold).astype(np.uint8)


def _distance_mm(mask: Volume) -> FloatArray:
    """Distance to the mask along the grid's own axes.

    The axes are perpendicular, which was checked at the entrance.
    """
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(mask.array, dtype=np.uint8))
    image.SetSpacing(spacing_mm(mask.affine)[::-1])
    distance: FloatArray = SimpleITK.GetArrayFromImage(
        SimpleITK.SignedMaurerDistanceMap(
            image, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
        )
    )
    return distance
