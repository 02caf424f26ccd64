"""Voxel overlap of two masks: Dice, Jaccard, precision, sensitivity.

Where a mask is empty: both empty is a perfect answer (Dice and Jaccard 1), one empty a wrong one (0).
Precision of an empty prediction and sensitivity to an empty truth are not defined (NaN), and are left out of
means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of a prediction and a truth on one grid.

    >>> Overlap(both=3, predicted=4, true=6).dice
    0.6
    >>> Overlap(0, 0, 0).dice, Overlap(0, 5, 0).dice, Overlap(0, 5, 0).sensitivity
    (1.0, 0.0, nan)
    """

    both: int
    predicted: int
    true: int

    @property
    def dice(self) -> float:
        """2 |P and T| / (|P| + |T|) (Dice, Ecology 26 (1945) 297)."""
        return _share(2 * self.both, self.predicted + self.true, empty=1.0)

    @property
    def jaccard(self) -> float:
        """|P and T| / |P or T|."""
        return _share(self.both, self.predicted + self.true - self.both, empty=1.0)

    @property
    def precision(self) -> float:
        """|P and T| / |P|: the share of the prediction that is true."""
        return _share(self.both, self.predicted, empty=math.nan)

    @property
    def sensitivity(self) -> float:
        """|P and T| / |T|: the share of the truth that was found."""
        return _share(self.both, self.true, empty=math.nan)


def count_overlap(prediction: Bool, truth: Bool) -> Overlap:
    """Count the voxels of two bool masks of one shape."""
    return Overlap(
        int(np.count_nonzero(prediction & truth)),
        int(np.count_nonzero(prediction)),
        int(np.count_nonzero(truth)),
    )


def _share(numerator: int, denominator: int, empty: float) -> float:
    return numerator / denominator if denominator else empty
