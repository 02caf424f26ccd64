"""Longest in-slice diameter, as a reader would draw it.

It runs from outer edge to outer edge in one slice of the reference.

The ends are middles of pixel edges, so a lesion of one pixel is as long as the pixel's longer side.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.geometry import Affine, apply_affine
from pipeline.measure.extremes import Index, face_middles, farthest_pair, row_ends
from pipeline.records import LongAxis, Measurement

METHOD = "longest distance of two pixel edges in one slice"


def find_long_axis(voxels: Index, affine: Affine) -> LongAxis:
    """Return the long axis of a lesion given by its (slice, row, column) voxels.

    The lowest slice wins a tie.
    """
    # Only the ends of each row can be the farthest apart.
    ends = row_ends(voxels)
    best: LongAxis | None = None
    for number in np.unique(ends[:, 0]):
        # From pixel edge to pixel edge, as a reader sets calipers.
        edge_points = face_middles(ends[ends[:, 0] == number], (1, 2))
        start, end, length_mm = farthest_pair(apply_affine(affine, edge_points))
        if best is None or length_mm > best.length_mm + 1e-9:
            best = LongAxis(int(number), _place(edge_points[start]), _place(edge_points[end]), length_mm)
    if best is None:
        raise ValueError("a lesion has at least one voxel")
    return best


def measure_long_axis(axis: LongAxis) -> Measurement:
    """Return the length in mm."""
    return Measurement("long_axis", axis.length_mm, "mm", METHOD)


def _place(voxel: npt.NDArray[np.float64]) -> tuple[float, float]:
    return float(voxel[1]), float(voxel[2])
