"""The side that a lesion lies on, by the patient's own midsagittal plane."""

from __future__ import annotations

from pipeline.geometry import Affine, apply_affine
from pipeline.measure.extremes import Index
from pipeline.measure.midplane import MidPlane
from pipeline.records import Laterality

SMALLER_SHARE = 0.1
"""Share of the volume from which on the smaller part counts: a lesion on both sides."""


def measure_laterality(voxels: Index, affine: Affine, plane: MidPlane) -> Laterality:
    """Return the side that holds the lesion; "both" when each side holds at least a tenth of it."""
    on_the_left = float((plane.left_of_mm(apply_affine(affine, voxels)) > 0).mean())
    if min(on_the_left, 1 - on_the_left) >= SMALLER_SHARE:
        return "both"
    return "left" if on_the_left > 0.5 else "right"
