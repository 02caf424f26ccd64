"""How measured volumes agree with true ones: Pearson, regression line, Bland-Altman."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class VolumeAgreement:
    """Predicted against true volumes over the cases.

    Attributes
    ----------
    pearson
        Correlation; NaN with fewer than three cases or when one side does not vary.
    slope, intercept_ml
        Least-squares line, predicted = slope x true + intercept; NaN where Pearson is for want of cases or of
        varying truth.
    bias_ml
        Mean of predicted minus true.
    low_ml, high_ml
        Limits of agreement, bias -+ 1.96 standard deviations (Bland and Altman, Lancet 1986); NaN for one
        case.
    """

    pearson: float
    slope: float
    intercept_ml: float
    bias_ml: float
    low_ml: float
    high_ml: float


def measure_agreement(predicted_ml: Sequence[float], true_ml: Sequence[float]) -> VolumeAgreement:
    """Compare volumes case by case.

    >>> measure_agreement([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    VolumeAgreement(pearson=1.0, slope=1.0, intercept_ml=1.0, bias_ml=1.0, low_ml=1.0, high_ml=1.0)
    """
    predicted, true = np.asarray(predicted_ml, dtype=np.float64), np.asarray(true_ml, dtype=np.float64)
    difference = predicted - true
    bias = float(difference.mean())
    reach = 1.96 * float(difference.std(ddof=1)) if len(difference) > 1 else math.nan
    pearson, slope, intercept = _fit(predicted, true)
    return VolumeAgreement(pearson, slope, intercept, bias, bias - reach, bias + reach)


def _fit(predicted: npt.NDArray[np.float64], true: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    if len(true) < 3 or np.ptp(true) == 0:
        return math.nan, math.nan, math.nan
    far, high = true - true.mean(), predicted - predicted.mean()
    slope = float(far @ high / (far @ far))
    spread = float(np.sqrt((far @ far) * (high @ high)))
    # A method that finds the same volume everywhere correlates with nothing.
    pearson = float(far @ high) / spread if spread else math.nan
    return pearson, slope, float(predicted.mean() - slope * true.mean())
