"""Connected lesions: labels 1..N by falling volume, small ones dropped."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import SimpleITK

from pipeline.errors import PipelineError
from pipeline.records import FloatArray


def apply_peak(
    probability: FloatArray, threshold: float, peak: float | FloatArray, connectivity: int
) -> tuple[FloatArray, int]:
    """Set the probability to zero in pieces at the threshold that nowhere reach the peak.

    The method is thresholding with hysteresis (Canny 1986).

    A low threshold outlines a lesion well, and also lets through faint pieces that are none; a network is
    sure somewhere of what it is right about.

    Parameters
    ----------
    probability
        (slice, row, column), 0..1, on the network's own grid: interpolation lowers the peaks of small
        lesions.
    peak
        One for all voxels, or one for each.
    connectivity
        26 or 6, as for `apply_components`.

    Returns
    -------
    The probability, the same array when nothing was dropped, and how many pieces were.
    """
    mask = probability >= threshold
    if np.all(np.less_equal(peak, threshold)) or not mask.any():
        return probability, 0
    # Number the pieces at the low threshold, then ask of each whether any of its voxels reaches the peak.
    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    components = SimpleITK.GetArrayFromImage(SimpleITK.ConnectedComponent(image, connectivity == 26))
    reached = np.zeros(int(components.max()) + 1, bool)
    reached[components[probability >= peak]] = True
    # Piece 0 is the background: nothing to drop there.
    reached[0] = True
    faint = ~reached[components]
    dropped = int(len(reached) - np.count_nonzero(reached))
    return (np.where(faint, np.float32(0), probability), dropped) if dropped else (probability, 0)


def apply_components(
    mask: npt.NDArray[np.uint8], connectivity: int, minimum_volume_mm3: float, voxel_volume_mm3: float
) -> tuple[npt.NDArray[np.uint16], int]:
    """Return the label map and how many components were dropped because they are smaller than the minimum.

    Parameters
    ----------
    mask
        (slice, row, column), 0 or 1.
    connectivity
        26 (faces, edges, corners) or 6 (faces).

    Raises
    ------
    PipelineError
        There are more components than a label map of 16 bits can hold.
    """
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(mask))
    components = SimpleITK.ConnectedComponent(image, connectivity == 26)
    # Whole voxels that make up the minimum volume; the small number keeps an exact quotient from being
    # rounded up.
    smallest = max(1, math.ceil(minimum_volume_mm3 / voxel_volume_mm3 - 1e-9))
    relabel = SimpleITK.RelabelComponentImageFilter()
    relabel.SetMinimumObjectSize(smallest)
    labels = SimpleITK.GetArrayFromImage(relabel.Execute(components))
    kept_count, component_count = int(relabel.GetNumberOfObjects()), int(relabel.GetOriginalNumberOfObjects())
    if kept_count > np.iinfo(np.uint16).max:
        raise PipelineError(
            f"{kept_count} separate lesions were found: the image is noise to the network",
            code="too-many-components",
        )
    return labels.astype(np.uint16), component_count - kept_count
