"""The brain: from the extractor's probability to a mask that is plausible, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage

from pipeline.errors import BrainExtractionError
from pipeline.geometry import Affine, Grid, Points, apply_affine, spacing_mm, voxel_volume_mm3
from pipeline.preprocess.resample import sample_linear
from pipeline.records import Finding, FloatArray, Volume

VOLUME_LIMITS_ML = (600.0, 2200.0)
SMALLEST_MAIN_SHARE = 0.85
LARGEST_BOTTOM_MM2 = 4000.0
LARGEST_RIM_MM2 = 2500.0


@dataclass(frozen=True, eq=False)
class Brain:
    """One brain on the extractor's grid (axial canonical).

    Attributes
    ----------
    mask
        uint8, one component without holes.
    soft
        float32 probability that crosses the threshold exactly at the mask's edge; interpolate this, never the
        mask.
    volume_ml
        Volume of the mask.
    main_share
        Part of all voxels above the threshold that the kept component holds.
    """

    mask: Volume
    soft: Volume
    threshold: float
    volume_ml: float
    main_share: float


def apply_brain_threshold(probability: Volume, threshold: float) -> Brain:
    """Keep the largest 6-connected piece at or above the threshold and fill its holes."""
    above = probability.array >= threshold
    components, number = ndimage.label(above)
    sizes = np.bincount(components.ravel(), minlength=number + 1)[1:]
    main_component = ndimage.binary_fill_holes(components == 1 + int(sizes.argmax())) if number else above
    edge = np.float32(0.01)
    soft: FloatArray = np.where(
        main_component,
        np.maximum(probability.array, threshold + edge),
        np.minimum(probability.array, threshold - edge),
    )
    volume_ml = float(main_component.sum()) * voxel_volume_mm3(probability.affine) / 1000
    share = float(sizes.max() / sizes.sum()) if number else 0.0
    return Brain(
        probability.with_array(main_component.astype(np.uint8)),
        probability.with_array(soft.astype(np.float32)),
        threshold,
        volume_ml,
        share,
    )


def find_brain_problem(brain: Brain) -> BrainExtractionError | None:
    """Return why this cannot be a brain (implausible volume, in pieces), or None."""
    low, high = VOLUME_LIMITS_ML
    if not low <= brain.volume_ml <= high:
        return BrainExtractionError(
            (
                f"the brain found has {brain.volume_ml:.0f} ml; {low:.0f} to {high:.0f} ml is "
                "plausible: is this a whole adult head?"
            ),
            code="brain-implausible",
        )
    if brain.main_share < SMALLEST_MAIN_SHARE:
        share = 100 * brain.main_share
        return BrainExtractionError(
            f"what was found is in pieces (the largest holds {share:.0f} %): is this a head?",
            code="brain-in-pieces",
        )
    return None


def box_corners(brain: Brain) -> Points:
    """Return the corners of a box that holds the brain wherever it is interpolated, (8, 3) LPS mm.

    All that reaches the threshold counts, also beside the largest piece; (0, 3) where nothing does.
    """
    found = np.argwhere(brain.soft.array >= brain.threshold)
    if not len(found):
        return np.zeros((0, 3))
    # A voxel wider than the voxels that reach it: beyond their next neighbours nothing is interpolated.
    ends = np.stack((found.min(axis=0) - 1, found.max(axis=0) + 1))
    return apply_affine(brain.soft.affine, list(product(*ends.T)))


def find_coverage_remarks(mask: Volume) -> list[Finding]:
    """Return a remark when the imaged volume (axial canonical) ends inside the brain.

    The brainstem may leave at the bottom.
    """
    voxel_mm3, sizes = voxel_volume_mm3(mask.affine), spacing_mm(mask.affine)
    cut = []
    # Few sagittal or coronal slices may leave out the sides as few axial ones leave out the vertex.
    for axis, sides in enumerate(
        (("below", "above"), ("in front", "behind"), ("on the right", "on the left"))
    ):
        for number, side in zip((0, -1), sides, strict=True):
            area_mm2 = float(mask.array.take(number, axis).sum()) * voxel_mm3 / sizes[axis]
            if area_mm2 > (LARGEST_BOTTOM_MM2 if side == "below" else LARGEST_RIM_MM2):
                cut.append(side)
    if not cut:
        return []
    sentence = "The imaged volume ends inside the brain: lesions outside it cannot be seen."
    return [Finding("brain-not-covered", "warning", sentence, " and ".join(cut))]


def move_brain(brain: Brain, grid: Grid, link: Affine) -> Brain:
    """Return the brain on another image's extractor grid.

    `link` is 4x4, from the grid's mm to the brain's mm.
    """
    soft = grid.fill(sample_linear(brain.soft, grid, link))
    return apply_brain_threshold(soft, brain.threshold)
