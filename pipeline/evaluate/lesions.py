"""Which lesions were found: detection by overlap, counted lesion by lesion.

A lesion is a 26-connected piece of a mask. A true lesion is detected when at least a tenth of its voxels is
predicted; a predicted lesion is right when at least a tenth of its voxels is true. The tenth is that of
Meddahi et al. 2024 (dual-modality stroke segmentation) and of the alpha of Commowick et al., Scientific
Reports 8 (2018) 13650; the second rule there (no more than 70 % of a detection outside) is not used, so that
the count does not punish a bad outline, which Dice and the surface distances do. One prediction may detect
several lesions, and one lesion make several predictions right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

DETECTION_SHARE = 0.1
_CONNECTIVITY = np.ones((3, 3, 3))

Bool = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LesionCounts:
    """Lesions of one case or, added up, of many.

    >>> LesionCounts(true=4, detected=3, predicted=2, right=1).f1
    0.6
    >>> LesionCounts(0, 0, 0, 0).f1, LesionCounts(0, 0, 2, 0).f1, LesionCounts(0, 0, 2, 0).sensitivity
    (1.0, 0.0, nan)
    """

    true: int
    detected: int
    predicted: int
    right: int

    def __add__(self, other: LesionCounts) -> LesionCounts:
        """Add the counts of two cases."""
        return LesionCounts(
            self.true + other.true,
            self.detected + other.detected,
            self.predicted + other.predicted,
            self.right + other.right,
        )

    @property
    def sensitivity(self) -> float:
        """Detected share of the true lesions; NaN when there is none."""
        return self.detected / self.true if self.true else math.nan

    @property
    def precision(self) -> float:
        """Right share of the predicted lesions; NaN when there is none."""
        return self.right / self.predicted if self.predicted else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of both.

        1 when there is neither a true nor a predicted lesion, 0 when only one kind is there.
        """
        if not self.true and not self.predicted:
            return 1.0
        if not self.detected or not self.right:
            return 0.0
        return 2 * self.sensitivity * self.precision / (self.sensitivity + self.precision)


def count_lesions(prediction: Bool, truth: Bool, minimum_voxels: float = 0.0) -> LesionCounts:
    """Count the lesions of a case.

    Parameters
    ----------
    prediction, truth
        (slice, row, column) bool on one grid.
    minimum_voxels
        Smaller pieces are not counted on either side, but detect and are detected all the same.
    """
    true_labels, true_sizes = _pieces(truth)
    predicted_labels, predicted_sizes = _pieces(prediction)
    covered = np.bincount(true_labels[prediction], minlength=len(true_sizes) + 1)[1:]
    confirmed = np.bincount(predicted_labels[truth], minlength=len(predicted_sizes) + 1)[1:]
    real, large_predicted = true_sizes >= minimum_voxels, predicted_sizes >= minimum_voxels
    detected = real & (covered >= DETECTION_SHARE * true_sizes)
    right = large_predicted & (confirmed >= DETECTION_SHARE * predicted_sizes)
    return LesionCounts(int(real.sum()), int(detected.sum()), int(large_predicted.sum()), int(right.sum()))


def _pieces(mask: Bool) -> tuple[Counts, Counts]:
    labels, _ = ndimage.label(mask, _CONNECTIVITY)
    sizes: Counts = np.bincount(labels.ravel())[1:]
    return labels, sizes
