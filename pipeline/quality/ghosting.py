"""Motion, seen by its ghosts.

Signal in the air beside the head that differs between the two in-plane directions.

A head that moves between phase-encoding steps repeats itself along the phase direction, and only there; so
air before and behind the head differs from air left and right of it. This is the percent-ghosting measure of
the ACR phantom test (ACR MRI QC manual, 2015) on a head. It does not see motion where the air was set to zero
or cut away: then there is no number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.geometry import Triple
from pipeline.records import Array

HEAD_SHARE = 0.15
"""Of the brain's median: above the noise of any image that shows a brain."""
MARGIN_MM = 6.0
SMALLEST_AIR_VOXELS = 500
SMALLEST_FILLED_SHARE = 0.5
"""Share of the air that must hold a signal: where most of it is exactly zero, it was masked."""


def measure_ghosting(image: Array, brain: npt.NDArray[np.bool_], spacing: Triple) -> float | None:
    """Return the difference of the two air signals over twice the brain's median, 0..1.

    The result is None where no air can be judged.

    Parameters
    ----------
    image, brain
        (slice, row, column), axial canonical; judged on the slices through the middle half of the brain.
    """
    planes = np.flatnonzero(brain.any(axis=(1, 2)))
    if len(planes) < 4:
        return None
    # The middle half of the slices: there the head is round and no neck below it.
    middle = slice(int(np.percentile(planes, 25)), int(np.percentile(planes, 75)) + 1)
    middle_slices, median = image[middle], float(np.median(image[brain]))
    # Opened in the plane, so that single noisy pixels are no head.
    head = ndimage.binary_opening(middle_slices > HEAD_SHARE * median, np.ones((1, 3, 3), bool))
    rows, columns = (np.flatnonzero(head.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    if not len(rows):
        return None
    # Strips of air before and behind the head in each direction, some mm away from it.
    row_margin, column_margin = (max(1, round(MARGIN_MM / size)) for size in spacing[1:])
    low_row, high_row = rows[0] - row_margin, rows[-1] + row_margin
    low_column, high_column = columns[0] - column_margin, columns[-1] + column_margin
    beside_rows = slice(max(0, rows[0]), rows[-1] + 1)
    beside_columns = slice(max(0, columns[0]), columns[-1] + 1)
    along_rows = [
        middle_slices[:, : max(0, low_row), beside_columns],
        middle_slices[:, high_row + 1 :, beside_columns],
    ]
    along_columns = [
        middle_slices[:, beside_rows, : max(0, low_column)],
        middle_slices[:, beside_rows, high_column + 1 :],
    ]
    # Ghosts lie along the phase encoding direction alone: the two airs differ.
    signals = []
    for air_strips in (along_rows, along_columns):
        air = np.concatenate([air_strip.ravel() for air_strip in air_strips])
        if len(air) < SMALLEST_AIR_VOXELS or np.count_nonzero(air) < SMALLEST_FILLED_SHARE * len(air):
            return None
        signals.append(float(air.mean()))
    return abs(signals[0] - signals[1]) / (2 * median) if median > 0 else None
