"""Largest extent of a lesion in space.

Between vertices of its mesh (IBSI L0JK; Zwanenburg et al., Radiology 295(2), 2020).
"""

from __future__ import annotations

import contextlib

from scipy.spatial import ConvexHull, QhullError

from pipeline.geometry import Affine, apply_affine
from pipeline.measure.extremes import Index, face_middles, farthest_pair, row_ends
from pipeline.records import Measurement


def measure_diameter(voxels: Index, affine: Affine) -> Measurement:
    """Return the longest distance of two mesh vertices in mm, in any direction.

    A lesion of one voxel is as long as that voxel's longest side.
    """
    points = apply_affine(affine, face_middles(row_ends(voxels), (0, 1, 2)))
    # A hull fails only where rounding makes it flat; then every point is compared.
    with contextlib.suppress(QhullError):
        points = points[ConvexHull(points).vertices]
    return Measurement(
        "maximum_3d_diameter", farthest_pair(points)[2], "mm", "longest distance of two vertices of the mesh"
    )
