"""The part of a large field of view that holds the head, so that a network needs no tiles of air, neck or shoulders."""

from __future__ import annotations

import numpy as np

from pipeline.geometry import Grid, Shape, apply_affine
from pipeline.records import FloatArray

FOREGROUND_SHARE = 0.12
"""Of the 99.5th percentile: above the noise, below any tissue."""
SMALLEST_PLANE_SHARE = 0.01
TOP_MARGIN_VOXELS = 3

Box = tuple[slice, slice, slice]


def plan_head_box(image: FloatArray, patch: Shape) -> Box:
    """Return the box of the head in an axial canonical image; an axis that fits into the patch is kept whole.

    Towards the feet the box ends one patch below the crown: a brain is never that long.
    """
    foreground = image > FOREGROUND_SHARE * np.percentile(image, 99.5)
    parts = []
    for axis, (size, wanted) in enumerate(zip(image.shape, patch, strict=True)):
        planes = np.flatnonzero(foreground.mean(axis=tuple(k for k in range(3) if k != axis)) > SMALLEST_PLANE_SHARE)
        if size <= wanted or not len(planes):
            parts.append(slice(0, size))
        elif axis == 0:
            stop = min(size, max(wanted, int(planes[-1]) + 1 + TOP_MARGIN_VOXELS))
            parts.append(slice(stop - wanted, stop))
        else:
            length = max(wanted, int(planes[-1] - planes[0]) + 1)
            start = min(max(0, int(planes[0] + planes[-1] + 1 - length) // 2), size - length)
            parts.append(slice(start, start + length))
    return parts[0], parts[1], parts[2]


def apply_box(image: FloatArray, grid: Grid, box: Box) -> tuple[FloatArray, Grid]:
    """Return the part of an image (channel, slice, row, column) in the box, and its grid."""
    part = image[(slice(None), *box)]
    affine = grid.affine.copy()
    affine[:3, 3] = apply_affine(grid.affine, [side.start for side in box])
    return part, Grid((part.shape[1], part.shape[2], part.shape[3]), affine, grid.frame_of_reference_uid)
