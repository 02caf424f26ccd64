"""Two methods on the same cases.

The Wilcoxon test says whether one is better, TOST whether they are worth the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.errors import PipelineError
from pipeline.evaluate.case import CaseScore
from pipeline.evaluate.equivalence import Equivalence, paired_tost
from pipeline.evaluate.summary import metric

COMPARED = ("dice", "lesion_f1", "average_distance_mm", "distance_95_mm", "absolute_volume_error_ml")
DICE_MARGIN = 1e-3
"""Mean Dice difference that does not matter.

As in the equivalence test of the StrokeSeg toolkit (Float16 against Float32).
"""


@dataclass(frozen=True)
class PairedTest:
    """First minus second on the cases where both are defined; two-sided Wilcoxon signed-rank test.

    `p_value` is 1 when no pair differs, and NaN when fewer than two cases can be paired.
    """

    metric: str
    cases: int
    mean_difference: float
    median_difference: float
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Both tests; `dice_equivalence` is None when there are fewer than two cases."""

    tests: tuple[PairedTest, ...]
    dice_equivalence: Equivalence | None


def compare_methods(
    first: Sequence[CaseScore], second: Sequence[CaseScore], margin: float = DICE_MARGIN
) -> Comparison:
    """Compare two sets of scores case by case.

    Raises
    ------
    PipelineError
        The two sets are not of the same cases in the same order ("cases-not-paired").
    """
    if [score.name for score in first] != [score.name for score in second]:
        raise PipelineError("the two methods were not scored on the same cases", code="cases-not-paired")
    tests = tuple(_wilcoxon(name, first, second) for name in COMPARED)
    equivalence = (
        paired_tost([score.dice for score in first], [score.dice for score in second], margin)
        if len(first) > 1
        else None
    )
    return Comparison(tests, equivalence)


def _wilcoxon(name: str, first: Sequence[CaseScore], second: Sequence[CaseScore]) -> PairedTest:
    differences = np.array(
        [
            metric(first_score, name) - metric(second_score, name)
            for first_score, second_score in zip(first, second, strict=True)
        ]
    )
    differences = differences[np.isfinite(differences)]
    if len(differences) < 2:
        return PairedTest(name, len(differences), math.nan, math.nan, math.nan)
    # Differences of exactly zero are dropped by the test (Wilcoxon 1945); without any other there is nothing
    # to test.
    p_value = float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0
    return PairedTest(
        name, len(differences), float(differences.mean()), float(np.median(differences)), p_value
    )
