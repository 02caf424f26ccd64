"""Paired TOST: whether two ways of answering the same cases are worth the same, within a margin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests on paired differences.

    Attributes
    ----------
    cases
        Number of pairs.
    mean_difference
        Mean of first minus second, in the metric's own unit.
    low, high
        Confidence interval of the mean difference at 1 - 2 x significance (90 % by default); the two are
        equivalent when it lies inside the margin.
    p_value
        The larger one of the two one-sided p-values.
    margin
        Largest mean difference that does not matter.
    equivalent
        Whether `p_value` is below the significance.
    """

    cases: int
    mean_difference: float
    low: float
    high: float
    p_value: float
    margin: float
    equivalent: bool


def paired_tost(
    first: Sequence[float], second: Sequence[float], margin: float, significance: float = SIGNIFICANCE
) -> Equivalence:
    """Test whether the mean of `first` - `second`, case by case, lies within +-`margin`.

    Source: Schuirmann, J Pharmacokinet Biopharm 15 (1987) 657, on paired differences with Student's t at n -
    1 degrees of freedom.

    Raises
    ------
    ValueError
        The lists differ in length, hold fewer than two pairs or a value that is not finite; the margin is not
        positive, or the significance not within 0..0.5.

    >>> paired_tost([0.81, 0.70, 0.64], [0.81, 0.70, 0.64], margin=0.001).equivalent
    True
    >>> paired_tost([0.80, 0.70, 0.60], [0.70, 0.65, 0.58], margin=0.001).equivalent
    False
    """
    first_values, second_values = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first_values.ndim != 1 or first_values.shape != second_values.shape or len(first_values) < 2:
        raise ValueError(
            f"paired values of at least two cases are needed, got shapes {first_values.shape} and "
            f"{second_values.shape}"
        )
    if not (np.isfinite(first_values).all() and np.isfinite(second_values).all()):
        raise ValueError("a value is NaN or infinite: leave the case out of both lists, or repair it")
    if not margin > 0:
        raise ValueError(f"the margin must be positive, got {margin}")
    if not 0 < significance < 0.5:
        raise ValueError(f"the significance must lie between 0 and 0.5, got {significance}")
    differences = first_values - second_values
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(len(first_values))
    freedom = len(first_values) - 1
    if error == 0.0:
        # All differences are the same number: there is nothing to be uncertain about.
        p_value = 0.0 if abs(mean) < margin else 1.0
    else:
        p_value = float(
            max(stats.t.sf((mean + margin) / error, freedom), stats.t.cdf((mean - margin) / error, freedom))
        )
    reach = float(stats.t.ppf(1 - significance, freedom)) * error
    return Equivalence(
        len(first_values), mean, mean - reach, mean + reach, p_value, margin, p_value < significance
    )
