"""Figures over many cases.

Means with bootstrap confidence intervals, pooled lesion counts, volume agreement, size bins.

Intervals are 95 % percentile intervals of resampled cases (Efron and Tibshirani 1993, chapter 13); the random
generator comes in as an argument, so the same cases and seed give the same interval.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt

from pipeline.evaluate.agreement import VolumeAgreement, measure_agreement
from pipeline.evaluate.case import CaseScore
from pipeline.evaluate.lesions import LesionCounts

SIZE_EDGES_ML = (1.0, 5.0, 20.0, 80.0)
"""Where one size bin of true volume ends and the next begins."""
RESAMPLES = 2000
MEAN_METRICS = (
    *("dice", "jaccard", "precision", "sensitivity", "average_distance_mm", "distance_95_mm"),
    *("lesion_f1", "volume_error_ml", "absolute_volume_error_ml"),
)

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % confidence interval, and over how many cases it is defined (NaN where it is not)."""

    value: float
    low: float
    high: float
    cases: int


@dataclass(frozen=True)
class SizeBin:
    """Cases whose true volume is above `low_ml` and at most `high_ml`.

    The bin of 0..0 holds those without a true lesion.
    """

    low_ml: float
    high_ml: float
    cases: int
    dice: Estimate
    lesion_f1: float
    found_anything: int
    mean_predicted_ml: float


@dataclass(frozen=True)
class Summary:
    """What is said of a set of cases."""

    cases: int
    missed_cases: int
    means: dict[str, Estimate]
    pooled_f1: Estimate
    agreement: dict[str, Estimate]
    bins: tuple[SizeBin, ...]


def metric(score: CaseScore, name: str) -> float:
    """Return one figure of a case by its name; "absolute_volume_error_ml" is its distance from zero."""
    if name == "absolute_volume_error_ml":
        return abs(score.volume_error_ml)
    value: float = getattr(score, name)
    return value


def summarize_cases(
    scores: Sequence[CaseScore],
    rng: np.random.Generator,
    edges_ml: Sequence[float] = SIZE_EDGES_ML,
    resamples: int = RESAMPLES,
) -> Summary:
    """Summarise at least one case."""
    draws = rng.integers(0, len(scores), size=(resamples, len(scores)))
    means = {name: _mean(np.array([metric(score, name) for score in scores]), draws) for name in MEAN_METRICS}
    edges = (0.0, *edges_ml, math.inf)
    bins = [_size_bin([score for score in scores if score.true_ml == 0], 0.0, 0.0, rng, resamples)]
    bins += [
        _size_bin([score for score in scores if low < score.true_ml <= high], low, high, rng, resamples)
        for low, high in itertools.pairwise(edges)
    ]
    return Summary(
        cases=len(scores),
        missed_cases=sum(score.true_ml > 0 and not score.lesions.detected for score in scores),
        means=means,
        pooled_f1=_pooled_f1(scores, draws),
        agreement=_agreement(scores, draws),
        bins=tuple(size_bin for size_bin in bins if size_bin.cases),
    )


def pool_lesions(scores: Sequence[CaseScore]) -> LesionCounts:
    """Add up the lesions of all cases, so that a case with many weighs more."""
    return reduce(add, (score.lesions for score in scores), LesionCounts(0, 0, 0, 0))


def _agreement(scores: Sequence[CaseScore], draws: npt.NDArray[np.int64]) -> dict[str, Estimate]:
    """Estimate the agreement over the cases with a true lesion.

    Many empty cases would make any line look straight.
    """
    lesions = np.array([score.true_ml > 0 for score in scores])
    predicted, true = (
        np.array([getattr(score, name) for score in scores]) for name in ("predicted_ml", "true_ml")
    )

    def measure(case_numbers: npt.NDArray[np.int64]) -> VolumeAgreement | None:
        numbers_with_lesion = case_numbers[lesions[case_numbers]]
        if not len(numbers_with_lesion):
            return None
        return measure_agreement(predicted[numbers_with_lesion], true[numbers_with_lesion])

    of_all = measure(np.arange(len(scores)))
    of_draws = [agreement for agreement in map(measure, draws) if agreement is not None]
    return {
        field.name: _finite_interval(
            math.nan if of_all is None else getattr(of_all, field.name),
            np.array([getattr(agreement, field.name) for agreement in of_draws], dtype=np.float64),
            int(lesions.sum()),
        )
        for field in fields(VolumeAgreement)
    }


def _size_bin(
    scores: Sequence[CaseScore], low_ml: float, high_ml: float, rng: np.random.Generator, resamples: int
) -> SizeBin:
    count = len(scores)
    draws = rng.integers(0, max(count, 1), size=(resamples, count))
    return SizeBin(
        low_ml=low_ml,
        high_ml=high_ml,
        cases=count,
        dice=_mean(np.array([score.dice for score in scores]), draws),
        lesion_f1=pool_lesions(scores).f1,
        found_anything=sum(score.predicted_ml > 0 for score in scores),
        mean_predicted_ml=float(np.mean([score.predicted_ml for score in scores])) if count else math.nan,
    )


def _mean(values: Float, draws: npt.NDArray[np.int64]) -> Estimate:
    """Return the mean over the cases where the figure is defined; a resample without such a case has none."""
    defined = np.isfinite(values)
    if not defined.any():
        return Estimate(math.nan, math.nan, math.nan, 0)
    drawn, counted = np.where(defined, values, 0.0)[draws].sum(axis=1), defined[draws].sum(axis=1)
    means = drawn[counted > 0] / counted[counted > 0]
    return _with_interval(float(values[defined].mean()), means, int(defined.sum()))


def _pooled_f1(scores: Sequence[CaseScore], draws: npt.NDArray[np.int64]) -> Estimate:
    """Estimate the F1 of the lesions of all cases together."""
    counts = np.array([astuple(score.lesions) for score in scores], dtype=np.int64)
    drawn = np.array([LesionCounts(*map(int, pooled)).f1 for pooled in counts[draws].sum(axis=1)])
    return _finite_interval(pool_lesions(scores).f1, drawn, len(scores))


def _finite_interval(value: float, drawn: Float, cases: int) -> Estimate:
    """Give a figure its interval; a resample in which it is not defined has none."""
    return _with_interval(value, drawn[np.isfinite(drawn)], cases)


def _with_interval(value: float, drawn: Float, cases: int) -> Estimate:
    """One case has no spread to resample, so no interval is claimed for it."""
    if cases < 2 or not len(drawn) or not math.isfinite(value):
        return Estimate(value, math.nan, math.nan, cases)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(value, float(low), float(high), cases)
