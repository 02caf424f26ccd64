"""N4 bias field correction, on a shrunk image: the field is smooth, so a coarse one is enough.

Source: Tustison et al., "N4ITK: improved N3 bias correction", IEEE TMI 29(6), 2010; SimpleITK's filter does
it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK

from pipeline.geometry import Triple
from pipeline.preprocess.threads import one_thread
from pipeline.records import FloatArray

WORKING_SPACING_MM = 6.0
ITERATIONS = (10, 10, 10)
CONVERGENCE = 0.003
STRONGEST_FIELD = 5.0


@dataclass(frozen=True)
class BiasPlan:
    """Shrink factors along (slice, row, column), iterations per level, coarse to fine."""

    shrink: tuple[int, int, int]
    iterations: tuple[int, ...]


def plan_bias_correction(spacing: Triple) -> BiasPlan:
    """Shrink to about 6 mm.

    Against 4 mm and twice the iterations the field differs by 1 % on average, at a tenth of the time.
    """
    first, second, third = (max(1, round(WORKING_SPACING_MM / size)) for size in spacing)
    return BiasPlan((first, second, third), ITERATIONS)


def apply_bias_correction(
    image: FloatArray, mask: npt.NDArray[np.bool_], plan: BiasPlan
) -> tuple[FloatArray, float]:
    """Return the image divided by its field, and the field's range (largest over smallest value in the mask).

    A field that is stronger than a coil can be is not applied: the image is returned as it came, with the
    range that was seen.
    """
    full = SimpleITK.GetImageFromArray(np.maximum(image, 0.0))
    inside = SimpleITK.GetImageFromArray((mask & (image > 0)).astype(np.uint8))
    factors = plan.shrink[::-1]
    with one_thread():
        n4 = SimpleITK.N4BiasFieldCorrectionImageFilter()
        n4.SetMaximumNumberOfIterations(plan.iterations)
        n4.SetConvergenceThreshold(CONVERGENCE)
        n4.Execute(SimpleITK.Shrink(full, factors), SimpleITK.Shrink(inside, factors))
        field = n4.GetLogBiasFieldAsImage(full)
    logarithm: FloatArray = SimpleITK.GetArrayFromImage(field).astype(np.float32)
    logarithm -= np.median(logarithm[mask])
    strength = float(np.exp(logarithm[mask].max() - logarithm[mask].min()))
    if strength > STRONGEST_FIELD:
        return image, strength
    corrected: FloatArray = np.divide(image, np.exp(logarithm), dtype=np.float32)
    return corrected, strength
