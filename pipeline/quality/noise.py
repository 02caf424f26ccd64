"""Signal over noise inside the brain, from the image itself.

The noise is the median absolute diagonal detail of the finest Haar level over 0.6745 (Donoho & Johnstone,
Biometrika 81(3), 1994, section 4): tissue edges hardly enter a median. Interpolated and filtered images hide
their noise, so the ratio is an upper bound.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.records import Array

NORMAL_MAD = 0.6745
PLENTY = 1000.0
"""Told in place of anything larger: an image without noise was computed, not measured."""


def measure_snr(image: Array, brain: npt.NDArray[np.bool_]) -> float:
    """Return the median of the brain over the noise's standard deviation.

    Parameters
    ----------
    image
        (slice, row, column); the details are taken within slices, along rows and columns.
    brain
        Same shape.
    """
    corners = [
        (slice(None), slice(row, -1 + row or None), slice(column, -1 + column or None))
        for row in (0, 1)
        for column in (0, 1)
    ]
    all_corners = np.logical_and.reduce([brain[corner] for corner in corners])
    if not all_corners.any():
        return 0.0
    first, second, third, fourth = (image[corner][all_corners].astype(np.float32) for corner in corners)
    detail = 0.5 * (first - second - third + fourth)
    noise = float(np.median(np.abs(detail))) / NORMAL_MAD
    signal = float(np.median(image[brain]))
    return min(signal / noise, PLENTY) if noise > 0 else PLENTY
