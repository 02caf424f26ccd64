"""Figures of the training's own summary: thresholds, pieces, size bins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.training.families.table import TASKS
from pipeline.training.pool import Pool
from pipeline.training.score import Cut, best_threshold, score_all, score_case, settle_cut, summarise
from pipeline.training.synthesis.subject import Case


def test_summary_counts_pieces_and_bins() -> None:
    truth = np.zeros((20, 20, 20), bool)
    truth[2:10, 2:10, 2:10] = True
    probability = np.where(truth, 0.45, 0.0).astype(np.float32)
    probability[15:18, 15:18, 15:18] = 0.9
    probability[0, 19, 19] = 0.9

    found, missed = score_case(probability, truth, 0.4, 0.008), score_case(probability, truth, 0.5, 0.008)

    assert best_threshold([found]) in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
    told = summarise([found, found], 0.4)
    assert told["dice"] == pytest.approx(2 * 512 / (512 + 512 + 28))
    # The single voxel is under the smallest piece that counts.
    assert (told["lesion_sensitivity"], told["lesion_precision"], told["false_pieces_per_case"]) == (
        1.0,
        0.5,
        1.0,
    )
    assert told["dice_1_to_5_ml"] == told["dice"]
    assert (missed.lesions.detected, summarise([missed], 0.5)["lesion_f1"]) == (0, 0.0)


def write_samples(folder: Path) -> list[Path]:
    """Write samples whose first channel is what a network would answer: a lesion with a sure middle, and a faint piece that is none."""
    pool, shape = Pool(folder), TASKS["tiny"].grid.shape
    for number in range(3):
        answer, label = torch.full((2, *shape), 0.01), torch.zeros(shape)
        label[4:12, 4:12, 4 + number : 12] = 1
        answer[0, 4:12, 4:12, 4 + number : 12] = 0.22
        answer[0, 7, 7, 8] = 0.97
        answer[0, 20:30, 20:30, 20:30] = 0.45
        pool.write(number, Case(answer, label, ()))
    return pool.paths()


def test_threshold_and_peak_are_settled_together(tmp_path: Path) -> None:
    paths, task = write_samples(tmp_path), TASKS["tiny"]

    cut = settle_cut(lambda image: image[0], task, paths, "t1")

    # Above 0.45 the lesion is lost to the threshold, below it only a peak tells the two pieces apart.
    assert cut == Cut(0.05, 0.5)
    table = score_all(lambda image: image[0], task, paths[:1], paths[1:])
    assert (table["t1"]["threshold"], table["t1"]["peak"]) == (0.05, 0.5)
    assert table["t1"]["dice"] == 1.0
    assert table["t1"]["false_pieces_per_case"] == 0.0


def test_a_network_that_is_never_sure_gets_no_peak(tmp_path: Path) -> None:
    paths = write_samples(tmp_path)

    cut = settle_cut(lambda image: np.minimum(image[0], 0.22), TASKS["tiny"], paths, "t1")

    assert cut.peak == 0.0
