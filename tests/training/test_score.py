"""Figures of the training's own summary: thresholds, pieces, size bins."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.training.score import best_threshold, score_case, summarise


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
    assert (told["lesion_sensitivity"], told["lesion_precision"], told["false_pieces_per_case"]) == (1.0, 0.5, 1.0)
    assert told["dice_1_to_5_ml"] == told["dice"]
    assert (missed.lesions.detected, summarise([missed], 0.5)["lesion_f1"]) == (0, 0.0)
