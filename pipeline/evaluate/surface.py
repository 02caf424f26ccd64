"""Distances between the surfaces of two masks in mm.

A surface voxel belongs to the mask and has a face neighbour outside of it; what lies beyond the array is
outside. The distance of a surface voxel is that to the nearest surface voxel of the other mask, between voxel
centres. Both are those of MONAI and of DeepMind's `surface-distance` before its sub-voxel weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.geometry import Triple

Bool = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceDistances:
    """Symmetric distances in mm; NaN when a mask is empty, since then there is no surface to be far from.

    Attributes
    ----------
    average_mm
        Mean over the surface voxels of both masks of the distance to the other surface (ASSD).
    percentile_95_mm
        The larger one of the 95th percentiles of the two directions (Hausdorff 95).
    """

    average_mm: float
    percentile_95_mm: float


def measure_surface_distances(prediction: Bool, truth: Bool, spacing_mm: Triple) -> SurfaceDistances:
    """Measure how far two surfaces are apart.

    Parameters
    ----------
    prediction, truth
        (slice, row, column) bool on one grid whose axes are perpendicular.
    spacing_mm
        Along (slice, row, column).
    """
    if not (prediction.any() and truth.any()):
        return SurfaceDistances(math.nan, math.nan)
    box = _bounding_box(prediction | truth)
    predicted, true = _surface(prediction[box]), _surface(truth[box])
    to_truth = _distances(predicted, true, spacing_mm)
    to_prediction = _distances(true, predicted, spacing_mm)
    average = float(np.concatenate([to_truth, to_prediction]).mean())
    return SurfaceDistances(
        average, float(max(np.percentile(to_truth, 95), np.percentile(to_prediction, 95)))
    )


def _bounding_box(mask: Bool) -> tuple[slice, ...]:
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(box)


def _surface(mask: Bool) -> Bool:
    surface: Bool = mask & ~ndimage.binary_erosion(mask)
    return surface


def _distances(start: Bool, end: Bool, spacing_mm: Triple) -> Distances:
    distances: Distances = ndimage.distance_transform_edt(~end, sampling=spacing_mm)[start]
    return distances
