"""The part of a large field of view that holds the head.

A network then needs no tiles of air, neck or shoulders.
"""

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
    ranges = []
    for axis, (size, patch_size) in enumerate(zip(image.shape, patch, strict=True)):
        planes = np.flatnonzero(
            foreground.mean(axis=tuple(k for k in range(3) if k != axis)) > SMALLEST_PLANE_SHARE
        )
        if size <= patch_size or not len(planes):
            ranges.append(slice(0, size))
        elif axis == 0:
            stop = min(size, max(patch_size, int(planes[-1]) + 1 + TOP_MARGIN_VOXELS))
            ranges.append(slice(stop - patch_size, stop))
        else:
            length = max(patch_size, int(planes[-1] - planes[0]) + 1)
            start = min(max(0, int(planes[0] + planes[-1] + 1 - length) // 2), size - length)
            ranges.append(slice(start, start + length))
    return ranges[0], ranges[1], ranges[2]


def apply_box(image: FloatArray, grid: Grid, box: Box) -> tuple[FloatArray, Grid]:
    """Return the part of an image (channel, slice, row, column) in the box, and its grid."""
    cropped = image[(slice(None), *box)]
    affine = grid.affine.copy()
    affine[:3, 3] = apply_affine(grid.affine, [side.start for side in box])
    return cropped, Grid(
        (cropped.shape[1], cropped.shape[2], cropped.shape[3]), affine, grid.frame_of_reference_uid
    )
