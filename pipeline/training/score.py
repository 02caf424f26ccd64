"""Figures on held-out synthetic cases: Dice by threshold, by size, lesion-wise F1, volume correlation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.training.network import UNet
from pipeline.training.pool import read_sample
from pipeline.training.tasks import Task, keep_channels
from pipeline.training.validate import predict

THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7)
SIZE_BINS_ML = (0.0, 1.0, 5.0, 20.0, 80.0, float("inf"))
HIT_SHARE = 0.1
SMALLEST_PIECE_ML = 0.05
CONNECTIVITY = np.ones((3, 3, 3))

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CaseScore:
    """One case and channel combination; `dice` is by threshold, the rest at the threshold that was asked for."""

    truth_ml: float
    dice: dict[float, float]
    found_ml: float
    true_pieces: int
    hit_pieces: int
    found_pieces: int
    false_pieces: int


def score_case(probability: npt.NDArray[np.float32], truth: Bool, threshold: float, voxel_ml: float) -> CaseScore:
    """Compare one probability map with its truth; a piece counts as hit when a tenth of it is found."""
    dice = {}
    for level in THRESHOLDS:
        mask = probability >= level
        total = int(mask.sum()) + int(truth.sum())
        dice[level] = 1.0 if total == 0 else 2.0 * int((mask & truth).sum()) / total
    mask = probability >= threshold
    true_labels, true_count = ndimage.label(truth, CONNECTIVITY)
    found_labels, found_count = ndimage.label(mask, CONNECTIVITY)
    true_sizes, found_sizes = np.bincount(true_labels.ravel())[1:], np.bincount(found_labels.ravel())[1:]
    covered = np.bincount(true_labels[mask], minlength=true_count + 1)[1:]
    overlapping = np.bincount(found_labels[truth], minlength=found_count + 1)[1:]
    real, kept = true_sizes * voxel_ml >= SMALLEST_PIECE_ML, found_sizes * voxel_ml >= SMALLEST_PIECE_ML
    return CaseScore(
        float(truth.sum()) * voxel_ml, dice, float(mask.sum()) * voxel_ml, int(real.sum()),
        int((real & (covered >= HIT_SHARE * true_sizes)).sum()), int(kept.sum()),
        int((kept & (overlapping < HIT_SHARE * found_sizes)).sum()),
    )  # fmt: skip


def score_network(network: UNet, paths: Sequence[Path], combination: str, threshold: float, voxel_ml: float) -> list[CaseScore]:
    """Score every sample with one channel combination."""
    scores = []
    for path in paths:
        image, label = read_sample(path)
        visible = keep_channels(image, network.architecture.channels, combination)
        truth = ((label > 0.5) & (visible != 0).any(dim=0)).numpy()
        scores.append(score_case(predict(network, visible).numpy(), truth, threshold, voxel_ml))
    return scores


def best_threshold(scores: Sequence[CaseScore]) -> float:
    """Return the threshold with the best mean Dice."""
    return max(THRESHOLDS, key=lambda level: float(np.mean([s.dice[level] for s in scores])))


def summarise(scores: Sequence[CaseScore], threshold: float) -> dict[str, float]:
    """Return mean Dice, lesion-wise F1, volume correlation and Dice by size bin."""
    with_lesion = [s for s in scores if s.truth_ml > 0]
    hits, pieces = sum(s.hit_pieces for s in scores), sum(s.true_pieces for s in scores)
    false, found = sum(s.false_pieces for s in scores), sum(s.found_pieces for s in scores)
    sensitivity, precision = hits / max(pieces, 1), (found - false) / max(found, 1)
    result = {
        "cases": float(len(scores)), "dice": float(np.mean([s.dice[threshold] for s in scores])),
        "dice_worst": min(s.dice[threshold] for s in scores),
        "lesion_sensitivity": sensitivity, "lesion_precision": precision,
        "lesion_f1": 2 * sensitivity * precision / max(sensitivity + precision, 1e-9),
        "false_pieces_per_case": false / max(len(scores), 1),
    }  # fmt: skip
    if len(with_lesion) > 2:
        volumes = np.array([[s.truth_ml, s.found_ml] for s in with_lesion])
        # A network that finds the same volume everywhere correlates with nothing.
        varies = bool((volumes.std(axis=0) > 0).all())
        result["volume_correlation"] = float(np.corrcoef(volumes.T)[0, 1]) if varies else 0.0
    for low, high in itertools.pairwise(SIZE_BINS_ML):
        chosen = [s.dice[threshold] for s in with_lesion if low < s.truth_ml <= high]
        if chosen:
            result[f"dice_{low:g}_to_{high:g}_ml"] = float(np.mean(chosen))
    empty = [s.found_ml for s in scores if s.truth_ml == 0]
    if empty:
        result["false_ml_without_lesion_mean"] = float(np.mean(empty))
    return result


def score_all(network: UNet, paths: Sequence[Path], task: Task) -> dict[str, dict[str, float]]:
    """Score each combination; where the task leaves it open, even-numbered samples choose the threshold for the others."""
    table = {}
    for name in task.combinations:
        threshold, scored = task.threshold, paths
        if threshold is None:
            threshold, scored = best_threshold(score_network(network, paths[::2], name, 0.5, task.grid.voxel_ml)), paths[1::2]
        summary = summarise(score_network(network, scored, name, threshold, task.grid.voxel_ml), threshold)
        if task.name == "brain":
            # One large piece: what is counted by piece or by size says nothing.
            summary = {key: value for key, value in summary.items() if key in ("cases", "dice", "dice_worst", "volume_correlation")}
        table[name] = {"threshold": threshold, **summary}
    return table
