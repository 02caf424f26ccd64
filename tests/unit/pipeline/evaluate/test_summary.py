"""Means, intervals, bins, volume agreement, and two methods against each other: by hand and against SciPy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pipeline.errors import PipelineError
from pipeline.evaluate.agreement import measure_agreement
from pipeline.evaluate.case import CaseScore
from pipeline.evaluate.comparison import compare_methods
from pipeline.evaluate.lesions import LesionCounts
from pipeline.evaluate.summary import summarize_cases


def case(
    name: str, true_ml: float, predicted_ml: float, dice: float, lesions: LesionCounts | None = None
) -> CaseScore:
    return CaseScore(
        name,
        true_ml,
        predicted_ml,
        dice,
        dice / (2 - dice),
        dice,
        dice,
        1.0,
        2.0,
        lesions or LesionCounts(1, 1, 1, 1),
    )


CASES = [
    case("a", 0.5, 0.4, 0.5),
    case("b", 3.0, 2.0, 0.6, LesionCounts(3, 1, 1, 1)),
    case("c", 5.0, 6.0, 0.7),
    case("d", 40.0, 30.0, 0.8),
    replace(
        case("e", 0.0, 1.0, 0.0, LesionCounts(0, 0, 2, 0)), sensitivity=math.nan, average_distance_mm=math.nan
    ),
    replace(
        case("f", 0.2, 0.0, 0.0, LesionCounts(1, 0, 0, 0)), precision=math.nan, average_distance_mm=math.nan
    ),
]


def test_means_are_over_the_cases_where_a_figure_is_defined() -> None:
    summary = summarize_cases(CASES, np.random.default_rng(1))

    assert (summary.means["dice"].value, summary.means["dice"].cases) == (pytest.approx(2.6 / 6), 6)
    assert (summary.means["precision"].value, summary.means["precision"].cases) == (pytest.approx(2.6 / 5), 5)
    assert summary.means["average_distance_mm"].cases == 4
    assert summary.means["volume_error_ml"].value == pytest.approx((-0.1 - 1 + 1 - 10 + 1 - 0.2) / 6)
    assert summary.means["absolute_volume_error_ml"].value == pytest.approx((0.1 + 1 + 1 + 10 + 1 + 0.2) / 6)
    assert summary.missed_cases == 1
    # 7 true lesions of which 4 were detected; 6 predicted of which 4 are right.
    assert summary.pooled_f1.value == pytest.approx(2 * (4 / 7) * (4 / 6) / (4 / 7 + 4 / 6))


def test_bins_hold_their_upper_edge_and_cases_without_a_lesion_stand_alone() -> None:
    bins = {
        (each.low_ml, each.high_ml): each for each in summarize_cases(CASES, np.random.default_rng(1)).bins
    }

    assert {key: each.cases for key, each in bins.items()} == {(0, 0): 1, (0, 1): 2, (1, 5): 2, (20, 80): 1}
    assert bins[1, 5].dice.value == pytest.approx(0.65)
    assert (bins[0, 0].found_anything, bins[0, 0].mean_predicted_ml) == (1, 1.0)
    assert math.isnan(bins[20, 80].dice.low)


def test_the_interval_repeats_with_its_seed_and_covers_as_it_says() -> None:
    again = [summarize_cases(CASES, np.random.default_rng(seed)).means["dice"] for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]

    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        drawn = [case(str(number), 1.0, 1.0, value) for number, value in enumerate(rng.beta(6, 3, 40))]
        dice = summarize_cases(drawn, rng, resamples=200).means["dice"]
        hits += dice.low <= 6 / 9 <= dice.high
    # 95 % of 200 with three standard deviations of room, and a percentile interval is a little narrow.
    assert 177 <= hits <= 199


def test_the_interval_is_that_of_scipy() -> None:
    dice = np.random.default_rng(2).beta(5, 3, 60)
    ours = summarize_cases(
        [case(str(n), 1.0, 1.0, d) for n, d in enumerate(dice)], np.random.default_rng(1), resamples=5000
    ).means["dice"]

    theirs = stats.bootstrap(
        (dice,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(9)
    ).confidence_interval

    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_volume_agreement_is_that_of_scipy() -> None:
    rng = np.random.default_rng(4)
    true = rng.gamma(1, 20, 30)
    predicted = 0.8 * true + 2 + rng.normal(0, 3, 30)

    ours, line = measure_agreement(predicted, true), stats.linregress(true, predicted)

    assert (ours.pearson, ours.slope, ours.intercept_ml) == pytest.approx(
        (line.rvalue, line.slope, line.intercept)
    )
    assert ours.bias_ml == pytest.approx(np.mean(predicted - true))
    assert (ours.high_ml - ours.low_ml) / 2 == pytest.approx(1.96 * np.std(predicted - true, ddof=1))


@pytest.mark.parametrize(("predicted", "true"), [([1, 2], [1, 2]), ([1, 2, 3], [5, 5, 5])])
def test_a_line_through_nothing_is_not_claimed(predicted: list[float], true: list[float]) -> None:
    assert math.isnan(measure_agreement(predicted, true).pearson)
    assert math.isnan(measure_agreement([4.0, 4.0, 4.0], [1.0, 2.0, 3.0]).pearson)


def test_two_methods_are_compared_pair_by_pair() -> None:
    rng = np.random.default_rng(8)
    dice = rng.beta(5, 3, 25)
    better = [case(str(n), 1.0, 1.0, d) for n, d in enumerate(dice)]
    worse = [
        case(str(n), 1.0, 1.2, d) for n, d in enumerate(np.clip(dice - rng.normal(0.05, 0.03, 25), 0, 1))
    ]

    told = {test.metric: test for test in compare_methods(better, worse).tests}

    theirs = stats.wilcoxon([one.dice for one in better], [two.dice for two in worse])
    assert told["dice"].p_value == pytest.approx(theirs.pvalue)
    assert told["dice"].p_value < 0.01
    assert told["absolute_volume_error_ml"].mean_difference == pytest.approx(-0.2)
    assert told["lesion_f1"].p_value == 1.0
    assert compare_methods(better, worse).dice_equivalence.equivalent is False
    assert compare_methods(better, better).dice_equivalence.equivalent is True


def test_undefined_pairs_are_left_out_and_strangers_refused() -> None:
    other = [replace(score, dice=score.dice / 2) for score in CASES]

    told = {test.metric: test.cases for test in compare_methods(CASES, other).tests}

    assert (told["dice"], told["average_distance_mm"]) == (6, 4)
    with pytest.raises(PipelineError, match="not scored on the same cases"):
        compare_methods(CASES, other[1:])
    assert compare_methods(CASES[:1], other[:1]).dice_equivalence is None
