"""Everything that is measured of a lesion's shape; a new measure of the shape has its place here."""

from __future__ import annotations

from pipeline.geometry import Affine, voxel_volume_mm3
from pipeline.measure.diameter import measure_diameter
from pipeline.measure.extremes import Index
from pipeline.measure.long_axis import measure_long_axis
from pipeline.measure.volume import measure_volume
from pipeline.records import LongAxis, Measurement


def measure_shape(voxels: Index, axis: LongAxis, affine: Affine) -> tuple[Measurement, ...]:
    """Return the measurements of a lesion given by its (slice, row, column) voxels.

    Parameters
    ----------
    axis
        Its longest line within a slice.
    affine
        4x4 from (slice, row, column) to patient mm.
    """
    volume = measure_volume(len(voxels), voxel_volume_mm3(affine))
    return volume, measure_long_axis(axis), measure_diameter(voxels, affine)
