"""Figures on held-out synthetic cases: Dice by threshold, by size, lesion-wise F1, volume correlation."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.evaluate.agreement import measure_agreement
from pipeline.evaluate.lesions import LesionCounts, count_lesions
from pipeline.evaluate.overlap import count_overlap
from pipeline.evaluate.summary import SIZE_EDGES_ML
from pipeline.postprocess.components import apply_peak
from pipeline.training.pool import read_sample
from pipeline.training.tasks import Task, keep_channels

PEAKS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
"""What a lesion may have to reach somewhere.

Above 0.95 Float16 weights and interpolation decide as much as the network.
"""
CONNECTIVITY = 26
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7)
SMALLEST_PIECE_ML = 0.05

Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float32]
Predict = Callable[[Float], Float]
"""Image (channel, slice, row, column) to probability (slice, row, column)."""


@dataclass(frozen=True)
class Cut:
    """How a probability becomes a mask.

    A voxel is at or above the threshold, in a piece that somewhere reaches the peak.
    """

    threshold: float
    peak: float = 0.0

    def apply(self, probability: Float) -> Float:
        """Return the probability without the pieces that do not count."""
        return apply_peak(probability, self.threshold, self.peak, CONNECTIVITY)[0]


@dataclass(frozen=True)
class CaseScore:
    """One case and channel combination.

    `dice` is by threshold, the rest at the threshold that was asked for.
    """

    truth_ml: float
    dice: dict[float, float]
    found_ml: float
    lesions: LesionCounts


def score_case(
    probability: npt.NDArray[np.float32], truth: Bool, threshold: float, voxel_ml: float
) -> CaseScore:
    """Compare one probability map with its truth; pieces under `SMALLEST_PIECE_ML` are not counted."""
    dice = {level: count_overlap(probability >= level, truth).dice for level in THRESHOLDS}
    mask = probability >= threshold
    lesions = count_lesions(mask, truth, SMALLEST_PIECE_ML / voxel_ml)
    return CaseScore(float(truth.sum()) * voxel_ml, dice, float(mask.sum()) * voxel_ml, lesions)


def score_samples(
    predict: Predict, task: Task, paths: Sequence[Path], combination: str, threshold: float
) -> list[CaseScore]:
    """Score every sample with one channel combination."""
    scores = []
    for path in paths:
        visible, truth = _ask(path, task, combination)
        scores.append(score_case(predict(visible), truth, threshold, task.grid.voxel_ml))
    return scores


def _predict_cut(predict: Predict, cut: Cut, image: Float) -> Float:
    return cut.apply(predict(image))


def _ask(path: Path, task: Task, combination: str) -> tuple[Float, Bool]:
    """Return what a network sees of a sample with these channels, and what can be asked of it.

    What no given channel shows cannot.
    """
    image, label = read_sample(path)
    visible = keep_channels(image, task.architecture.channels, combination)
    return visible.numpy(), ((label > 0.5) & (visible != 0).any(dim=0)).numpy()


def best_threshold(scores: Sequence[CaseScore]) -> float:
    """Return the threshold with the best mean Dice."""
    return max(THRESHOLDS, key=lambda level: float(np.mean([s.dice[level] for s in scores])))


def settle_cut(
    predict: Predict,
    task: Task,
    paths: Sequence[Path],
    combination: str,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Cut:
    """Return the threshold, one of these, and the peak with the best mean Dice on these samples."""
    totals = np.zeros((len(thresholds), len(PEAKS)))
    for path in paths:
        visible, truth = _ask(path, task, combination)
        probability = predict(visible)
        totals += [_dice_by_peak(probability, truth, threshold) for threshold in thresholds]
    best = np.unravel_index(totals.argmax(), totals.shape)
    threshold, peak = thresholds[int(best[0])], PEAKS[int(best[1])]
    # A peak that every piece reaches asks for nothing.
    return Cut(threshold, peak if peak > threshold else 0.0)


def _dice_by_peak(probability: Float, truth: Bool, threshold: float) -> list[float]:
    components, count = ndimage.label(probability >= threshold, np.ones((3, 3, 3)))
    inside = components > 0
    sizes = np.bincount(components[inside], minlength=count + 1)
    right = np.bincount(components[inside & truth], minlength=count + 1)
    peaks = np.zeros(count + 1)
    np.maximum.at(peaks, components[inside], probability[inside])
    dices = []
    for peak in PEAKS:
        reaching = peaks >= max(peak, threshold)
        total_voxels = int(sizes[reaching].sum() + truth.sum())
        dices.append(2.0 * right[reaching].sum() / total_voxels if total_voxels else 1.0)
    return dices


def summarise(scores: Sequence[CaseScore], threshold: float) -> dict[str, float]:
    """Return mean Dice, lesion-wise F1, volume correlation and Dice by size bin."""
    with_lesion = [s for s in scores if s.truth_ml > 0]
    lesions = reduce(add, (s.lesions for s in scores), LesionCounts(0, 0, 0, 0))
    result = {
        "cases": float(len(scores)), "dice": float(np.mean([s.dice[threshold] for s in scores])),
        "dice_worst": min(s.dice[threshold] for s in scores),
        "lesion_sensitivity": _or_zero(lesions.sensitivity), "lesion_precision": _or_zero(lesions.precision),
        "lesion_f1": lesions.f1,
        "false_pieces_per_case": (lesions.predicted - lesions.right) / max(len(scores), 1),
    }  # fmt: skip
    if len(with_lesion) > 2:
        agreement = measure_agreement([s.found_ml for s in with_lesion], [s.truth_ml for s in with_lesion])
        result["volume_correlation"] = _or_zero(agreement.pearson)
    for low, high in itertools.pairwise((0.0, *SIZE_EDGES_ML, math.inf)):
        dices_in_bin = [s.dice[threshold] for s in with_lesion if low < s.truth_ml <= high]
        if dices_in_bin:
            result[f"dice_{low:g}_to_{high:g}_ml"] = float(np.mean(dices_in_bin))
    empty = [s.found_ml for s in scores if s.truth_ml == 0]
    if empty:
        result["false_ml_without_lesion_mean"] = float(np.mean(empty))
    return result


def _or_zero(value: float) -> float:
    """Take what is not defined (nothing to find, nothing found, no spread) for a failure.

    A choice by these figures must not prefer it.
    """
    return 0.0 if math.isnan(value) else value


def score_all(
    predict: Predict, task: Task, choosing: Sequence[Path], scored: Sequence[Path]
) -> dict[str, dict[str, float]]:
    """Score each combination on `scored`.

    Where the task leaves it open, the samples in `choosing` settle threshold and peak first.
    """
    table = {}
    for name in task.combinations:
        cut = settle_cut(predict, task, choosing, name) if task.threshold is None else Cut(task.threshold)
        scores = score_samples(
            functools.partial(_predict_cut, predict, cut), task, scored, name, cut.threshold
        )
        summary = summarise(scores, cut.threshold)
        if task.name == "brain":
            # One large piece: what is counted by piece or by size says nothing.
            summary = {
                key: value
                for key, value in summary.items()
                if key in ("cases", "dice", "dice_worst", "volume_correlation")
            }
        table[name] = {"threshold": cut.threshold, "peak": cut.peak, **summary}
    return table


def split_samples(
    paths: Sequence[Path], choosing: int | None = None
) -> tuple[Sequence[Path], Sequence[Path]]:
    """Return the samples that settle the thresholds and those that are scored.

    The first `choosing` settle them, or every second sample when that is absent.
    """
    return (paths[::2], paths[1::2]) if choosing is None else (paths[:choosing], paths[choosing:])
