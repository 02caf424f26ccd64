"""Probabilities onto the grid of the reference image. Probabilities are interpolated, masks never."""

from __future__ import annotations

from pipeline.errors import GeometryError
from pipeline.geometry import Grid, same_grid
from pipeline.preprocess.resample import sample_linear
from pipeline.records import Volume


def apply_to_source_grid(probability: Volume, grid: Grid) -> Volume:
    """Return the probability linearly interpolated at the grid's voxel centres.

    It is zero where the network saw nothing.

    Raises
    ------
    GeometryError
        The frames of reference differ.
    """
    # Two coordinate systems with different UIDs have no known relation: nothing may be carried over.
    if probability.frame_of_reference_uid != grid.frame_of_reference_uid:
        raise GeometryError(
            "the probability lies in another frame of reference than the image",
            code="frame-of-reference-mismatch",
        )
    # On the same voxels already: interpolation would only add rounding.
    if same_grid(probability, grid):
        return probability
    # Each voxel centre (index of the source grid) goes to LPS mm and from there to an index of the network's
    # grid.
    return grid.fill(sample_linear(probability, grid))
