"""Paired TOST against SciPy's two one-sided t-tests, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluate.equivalence import paired_tost


def draw(seed: int, shift: float) -> tuple[list[float], list[float]]:
    """Return 30 pairs of Dice values that differ by `shift` on average."""
    random = np.random.default_rng(seed)
    first = random.uniform(0.3, 0.9, 30)
    return first.tolist(), (first - shift + random.normal(0, 1e-3, 30)).tolist()


@pytest.mark.parametrize("shift", [0.0, 4e-4, 9e-4, -9e-4, 3e-3])
def test_p_value_is_the_larger_of_two_one_sided_tests(shift: float) -> None:
    first, second = draw(1, shift)

    found = paired_tost(first, second, margin=1e-3)

    differences = np.subtract(first, second)
    above = stats.ttest_1samp(differences, -1e-3, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, 1e-3, alternative="less").pvalue
    assert found.p_value == pytest.approx(max(above, below), rel=1e-9)
    assert found.mean_difference == pytest.approx(differences.mean())
    assert found.equivalent == (max(above, below) < 0.05)


@pytest.mark.parametrize("shift", [0.0, 4e-4, 9e-4, -9e-4, 3e-3])
def test_equivalent_exactly_when_the_interval_lies_inside_the_margin(shift: float) -> None:
    found = paired_tost(*draw(2, shift), margin=1e-3)

    assert found.equivalent == (-1e-3 < found.low <= found.high < 1e-3)


def test_few_noisy_cases_do_not_prove_equivalence() -> None:
    # The mean difference is zero, but three such cases cannot tell that from the margin.
    assert not paired_tost([0.5, 0.6, 0.7], [0.6, 0.6, 0.6], margin=1e-3).equivalent


def test_same_difference_everywhere_is_judged_by_its_size() -> None:
    assert paired_tost([0.5, 0.75], [0.5, 0.75], margin=1e-3).p_value == 0.0
    # Powers of two, so that the differences are the same to the last bit.
    apart = paired_tost([0.5, 0.75], [0.25, 0.5], margin=0.25)
    assert (apart.equivalent, apart.p_value) == (False, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "margin", "words"),
    [
        ([0.5], [0.5], 1e-3, "at least two cases"),
        ([0.5, 0.6], [0.5, 0.6, 0.7], 1e-3, "at least two cases"),
        ([0.5, math.nan], [0.5, 0.6], 1e-3, "NaN"),
        ([0.5, 0.6], [0.5, 0.6], 0.0, "margin"),
    ],
)
def test_unusable_values_are_named(
    first: list[float], second: list[float], margin: float, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        paired_tost(first, second, margin)
