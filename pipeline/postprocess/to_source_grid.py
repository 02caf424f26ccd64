"""Probabilities onto the grid of the reference image. Probabilities are interpolated, masks never."""

from __future__ import annotations

import numpy as np
import SimpleITK

from pipeline.errors import GeometryError
from pipeline.geometry import Grid, same_grid
from pipeline.records import FloatArray, Volume


def apply_to_source_grid(probability: Volume, grid: Grid) -> Volume:
    """Return the probability linearly interpolated at the grid's voxel centres, zero where the network saw nothing.

    Raises
    ------
    GeometryError
        The frames of reference differ.
    """
    if probability.frame_of_reference_uid != grid.frame_of_reference_uid:
        raise GeometryError("the probability lies in another frame of reference than the image", code="frame-of-reference-mismatch")
    if same_grid(probability, grid):
        return probability
    matrix = np.linalg.inv(probability.affine) @ grid.affine
    # SimpleITK works on plain index space here; its indices run (column, row, slice).
    transform = SimpleITK.AffineTransform(3)
    transform.SetMatrix(matrix[2::-1, 2::-1].ravel().tolist())
    transform.SetTranslation(matrix[2::-1, 3].tolist())
    source = SimpleITK.GetImageFromArray(np.ascontiguousarray(probability.array, dtype=np.float32))
    size = [int(n) for n in grid.shape[::-1]]
    moved = SimpleITK.Resample(
        source,
        size,
        transform,
        SimpleITK.sitkLinear,
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        np.eye(3).ravel().tolist(),
        0.0,
        SimpleITK.sitkFloat32,
    )
    array: FloatArray = SimpleITK.GetArrayFromImage(moved)
    return grid.fill(array)
