"""Every figure of a case against numbers that were worked out by hand, and the rules for empty masks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.errors import GeometryError
from pipeline.evaluate.case import score_case
from pipeline.evaluate.lesions import LesionCounts, count_lesions
from pipeline.evaluate.surface import measure_surface_distances
from pipeline.records import Array, Volume

SPACING = (3.0, 1.0, 2.0)


def mask(*boxes: tuple[slice, slice, slice]) -> Array:
    array = np.zeros((10, 20, 30), np.uint8)
    for box in boxes:
        array[box] = 1
    return array


def volume(array: Array, affine: Array | None = None) -> Volume:
    return Volume(array, np.diag([*SPACING, 1.0]) if affine is None else affine, "1.2.3")


BAR = (slice(2, 3), slice(5, 6), slice(4, 14))
"""Ten voxels in a row along the third axis, 6 mm3 each."""
MOVED = (slice(2, 3), slice(5, 6), slice(6, 16))
"""The same, two voxels (4 mm) further."""


def test_overlap_of_two_bars() -> None:
    score = score_case("bars", volume(mask(MOVED)), volume(mask(BAR)))

    assert (score.true_ml, score.predicted_ml) == pytest.approx((0.06, 0.06))
    assert score.dice == pytest.approx(16 / 20)
    assert score.jaccard == pytest.approx(8 / 12)
    assert (score.precision, score.sensitivity) == pytest.approx((0.8, 0.8))
    # Two end voxels of each bar are 2 and 4 mm from the other, the other eight lie on it.
    assert score.average_distance_mm == pytest.approx((2 + 4 + 2 + 4) / 20)
    # Sorted: eight zeros, 2, 4; the 95th percentile lies at place 8.55 between 2 and 4.
    assert score.distance_95_mm == pytest.approx(2 + 0.55 * 2)
    assert score.lesions == LesionCounts(1, 1, 1, 1)


def test_distances_use_the_spacing_of_their_axis() -> None:
    point = (slice(2, 3), slice(5, 6), slice(4, 5))
    for axis, step in enumerate(SPACING):
        moved = np.roll(mask(point), 2, axis) > 0

        assert measure_surface_distances(moved, mask(point) > 0, SPACING).percentile_95_mm == pytest.approx(
            2 * step
        )


def test_the_inside_of_a_mask_is_no_surface() -> None:
    outer = (slice(0, 7), slice(0, 7), slice(0, 7))
    inner = (slice(1, 6), slice(1, 6), slice(1, 6))
    shell = mask(outer) > 0

    distances = measure_surface_distances(shell, mask(inner) > 0, (1.0, 1.0, 1.0))

    # 218 voxels of the outer shell: faces 150 at 1 mm, edges 60 at sqrt(2), corners 8 at sqrt(3); the 98 of the inner one are 1 mm away.
    assert distances.average_mm == pytest.approx(
        (150 + 60 * math.sqrt(2) + 8 * math.sqrt(3) + 98) / (218 + 98)
    )


@pytest.mark.parametrize(
    ("found", "true", "dice", "f1"),
    [((), (), 1.0, 1.0), ((BAR,), (), 0.0, 0.0), ((), (BAR,), 0.0, 0.0)],
    ids=["both", "truth", "prediction"],
)
def test_empty_masks(found: tuple, true: tuple, dice: float, f1: float) -> None:
    score = score_case("empty", volume(mask(*found)), volume(mask(*true)))

    assert (score.dice, score.jaccard, score.lesion_f1) == (dice, dice, f1)
    assert math.isnan(score.average_distance_mm)
    assert math.isnan(score.distance_95_mm)
    assert math.isnan(score.precision) is (not found)
    assert math.isnan(score.sensitivity) is (not true)


def test_a_tenth_of_a_lesion_is_a_detection() -> None:
    truth = mask(BAR, (slice(8, 9), slice(5, 6), slice(0, 11))) > 0
    one_voxel_each = mask(*[(slice(s, s + 1), slice(5, 6), slice(4, 5)) for s in (2, 8)]) > 0

    counts = count_lesions(one_voxel_each, truth)

    # One voxel of the bar of ten is enough, one of eleven is not.
    assert counts == LesionCounts(true=2, detected=1, predicted=2, right=2)
    assert counts.f1 == pytest.approx(2 * 0.5 * 1 / 1.5)


def test_a_prediction_of_which_less_than_a_tenth_is_true_is_false() -> None:
    truth = mask((slice(2, 3), slice(5, 6), slice(4, 5))) > 0
    prediction = mask((slice(2, 3), slice(5, 6), slice(4, 15))) > 0

    assert count_lesions(prediction, truth) == LesionCounts(true=1, detected=1, predicted=1, right=0)
    assert count_lesions(prediction, truth).f1 == 0


def test_lesions_touch_by_corners_and_small_ones_are_left_out() -> None:
    corner = mask((slice(2, 3), slice(2, 3), slice(2, 3)), (slice(3, 4), slice(3, 4), slice(3, 4)), BAR) > 0

    assert count_lesions(corner, corner) == LesionCounts(2, 2, 2, 2)
    assert count_lesions(corner, corner, minimum_voxels=3) == LesionCounts(1, 1, 1, 1)


def test_one_prediction_over_two_lesions_detects_both() -> None:
    truth = mask((slice(2, 3), slice(5, 6), slice(4, 8)), (slice(2, 3), slice(5, 6), slice(9, 14))) > 0

    assert count_lesions(mask(BAR) > 0, truth) == LesionCounts(true=2, detected=2, predicted=1, right=1)


def test_other_grids_and_sheared_grids_are_refused() -> None:
    sheared = np.diag([*SPACING, 1.0])
    sheared[0, 1] = 0.3
    with pytest.raises(GeometryError, match="case-7: prediction and truth do not lie on one grid"):
        score_case("case-7", volume(mask(BAR), np.diag([3.0, 1.0, 2.5, 1.0])), volume(mask(BAR)))
    with pytest.raises(GeometryError, match="not perpendicular"):
        score_case("case-7", volume(mask(BAR), sheared), volume(mask(BAR), sheared))
