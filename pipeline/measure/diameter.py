"""Largest extent of a lesion in space."""

from __future__ import annotations

import contextlib

from scipy.spatial import ConvexHull, QhullError

from pipeline.geometry import Affine, apply_affine
from pipeline.measure.extremes import Index, farthest_pair, row_ends
from pipeline.records import Measurement


def measure_diameter(voxels: Index, affine: Affine) -> Measurement:
    """Return the longest distance of two voxel centres in mm, in any direction."""
    points = apply_affine(affine, row_ends(voxels))
    # Flat or tiny: there is no hull, and few points to compare.
    with contextlib.suppress(QhullError, ValueError):
        points = points[ConvexHull(points).vertices]
    return Measurement("maximum_3d_diameter", farthest_pair(points)[2], "mm", "longest distance of two voxel centres in space")
