"""Probabilities onto the grid of the reference image. Probabilities are interpolated, masks never."""

from __future__ import annotations

from pipeline.errors import GeometryError
from pipeline.geometry import Grid, same_grid
from pipeline.preprocess.resample import sample_linear
from pipeline.records import Volume


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
    return grid.fill(sample_linear(probability, grid))
