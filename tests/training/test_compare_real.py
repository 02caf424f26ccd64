"""Real against synthetic slices: each measure on slices whose values are known, and the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.training.compare_real import compare_slices, measure_slice, near_quartiles, read_synthetic
from pipeline.training.problem import TrainingProblem
from pipeline.training.real_slices import RealSlice
from pipeline.training.synthesis.subject import FINE_GRID, Case
from pipeline.training.volume_pool import VolumePool


def make_slice(lesion_level: float = 1.5, noise: float = 0.01, bright_share: float = 0.0) -> RealSlice:
    """Return a round brain of level 1 with a bright rim, a square lesion on one side and noise."""
    rows, columns = np.mgrid[:160, :160]
    radius = np.hypot(rows - 80, columns - 79.5)
    brain = radius < 70
    image = np.where(radius > 62, 1.2, 1.0).astype(np.float32)
    generator = np.random.default_rng(0)
    image[(generator.random(image.shape) < bright_share) & (radius < 50)] = 1.6
    mask = np.zeros(image.shape, bool)
    mask[70:86, 40:56] = True
    image[mask] = lesion_level
    image += noise * generator.standard_normal(image.shape).astype(np.float32)
    return RealSlice("axial", 1, image * brain, mask)


def test_measures_are_those_that_were_made() -> None:
    measures = measure_slice(make_slice())

    assert measures["cortex, 75th percentile / deep"] == pytest.approx(1.2, abs=0.02)
    assert measures["noise / deep"] == pytest.approx(0.01, rel=0.1)
    assert measures["bright white matter, share of the deep brain"] == 0.0
    assert measures["lesion, median"] == pytest.approx(1.5, abs=0.01)
    assert measures["lesion / mirrored place, 100 to 500 px"] == pytest.approx(1.5, abs=0.02)
    assert measures["lesion, share brighter than 1.1 x mirrored"] == 1.0
    assert measures["edge of bright lesions, 25 to 75 %, mm"] < 1.5


def test_bright_white_matter_is_a_share_and_the_lesion_is_none_of_it() -> None:
    measures = measure_slice(make_slice(bright_share=0.2))

    assert measures["bright white matter, share of the deep brain"] == pytest.approx(0.17, abs=0.04)


def test_the_table_says_what_lies_within_ten_percent() -> None:
    real, synthetic = [make_slice()] * 3, [make_slice(lesion_level=2.0)] * 3

    text = compare_slices(real, synthetic)

    assert "3 real axial slices, 3 synthetic one" in text
    rows = {line.split(" | ")[0][2:]: line for line in text.splitlines() if line.startswith("| ")}
    assert rows["cortex, 75th percentile / deep"].endswith("| 3 + 3 | yes |")
    assert rows["lesion, median"].endswith("| 3 + 3 | no |")
    assert near_quartiles(np.array([1.0, 2.0, 3.0]), np.array([1.09, 1.82, 3.0]))
    assert not near_quartiles(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.31]))


def test_synthetic_slices_come_from_the_pool(tmp_path: Path) -> None:
    pool = VolumePool(tmp_path)
    with pytest.raises(TrainingProblem, match="synthesize-volumes"):
        read_synthetic(pool)
    image = torch.ones(2, *FINE_GRID.shape)
    pool.write(3, Case(image, torch.zeros(FINE_GRID.shape, dtype=torch.bool), ()))
    pool.write(900_001, Case(image, torch.zeros(FINE_GRID.shape, dtype=torch.bool), ()))

    (item,) = read_synthetic(pool)

    assert (item.plane, item.subject, item.image.shape) == ("axial", 3, FINE_GRID.shape[1:])
