"""The uniform cubic B-spline: the field of a bias and the bins of a histogram are made of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Weights = npt.NDArray[np.float64]


def cubic_weights(share: Weights) -> tuple[Weights, Weights, Weights, Weights]:
    """Return what the four splines that reach a piece weigh at `share` (0..1) of it; they sum up to 1."""
    t = share
    return (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
