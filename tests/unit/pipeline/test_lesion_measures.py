"""Measurements of shapes whose answer is known by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.geometry import apply_affine, axial_affine, index_to_lps
from pipeline.measure.diameter import measure_diameter
from pipeline.measure.extremes import farthest_pair, row_ends
from pipeline.measure.intensity import measure_mean_intensity
from pipeline.measure.lesion import measure_lesions
from pipeline.measure.long_axis import find_long_axis
from pipeline.measure.volume import measure_lesion_load
from pipeline.records import Volume
from tests.factories.volumes import FRAME, SAGITTAL, grid_affine

AFFINE = axial_affine((8, 20, 20), (5.0, 2.0, 0.5), (1, 2, 3))


def test_the_long_axis_respects_unequal_pixels() -> None:
    voxels = np.array([[3, row, 7] for row in range(4, 10)] + [[3, 6, column] for column in range(16)])

    axis = find_long_axis(voxels, AFFINE)

    # 15 columns of 0.5 mm are shorter than 5 rows of 2 mm.
    assert axis.length_mm == pytest.approx(10.0)
    assert {axis.start, axis.end} == {(4.0, 7.0), (9.0, 7.0)}
    assert axis.slice_index == 3


def test_the_long_axis_lies_in_one_slice_and_is_its_end_points_distance() -> None:
    voxels = np.argwhere(np.random.default_rng(4).random((8, 20, 20)) > 0.97)

    axis = find_long_axis(voxels, AFFINE)

    ends = [index_to_lps(AFFINE, (axis.slice_index, *end)) for end in (axis.start, axis.end)]
    assert np.linalg.norm(np.subtract(*ends)) == pytest.approx(axis.length_mm)
    marked = {tuple(voxel) for voxel in voxels.tolist()}
    assert {(axis.slice_index, int(r), int(c)) for r, c in (axis.start, axis.end)} <= marked
    best = max(
        float(np.linalg.norm(apply_affine(AFFINE, a) - apply_affine(AFFINE, b)))
        for number in range(8)
        for a, b in itertools.combinations_with_replacement(voxels[voxels[:, 0] == number], 2)
    )
    assert axis.length_mm == pytest.approx(best)


def test_the_diameter_in_space_is_the_true_one() -> None:
    voxels = np.argwhere(np.random.default_rng(6).random((8, 20, 20)) > 0.95)
    points = apply_affine(AFFINE, voxels)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)

    assert measure_diameter(voxels, AFFINE).value == pytest.approx(apart.max())


@pytest.mark.parametrize(
    ("voxels", "length"),
    [([[2, 3, 4]], 0.0), ([[2, 3, 4], [2, 3, 8]], 2.0), ([[2, 3, 4], [3, 3, 4]], 5.0), ([[1, r, 4] for r in range(9)], 16.0)],
)
def test_flat_and_tiny_lesions_have_a_diameter(voxels: list[list[int]], length: float) -> None:
    assert measure_diameter(np.array(voxels), AFFINE).value == pytest.approx(length)


def test_row_ends_lose_no_longest_distance() -> None:
    voxels = np.argwhere(np.random.default_rng(8).random((5, 9, 9)) > 0.5)
    points = voxels.astype(float)

    assert farthest_pair(points)[2] == pytest.approx(farthest_pair(row_ends(voxels).astype(float))[2])


def test_a_table_row_holds_what_the_label_map_holds() -> None:
    shape = (12, 14, 16)
    affine = grid_affine(shape, (1.5, 2.0, 0.8), directions=SAGITTAL, centre_mm=(40, -3, 9))
    labels = np.zeros(shape, np.uint16)
    labels[2:6, 3:7, 4:9] = 1
    labels[9, 10, 11:13] = 2
    probability = np.where(labels == 1, 0.75, 0.6).astype(np.float32)
    signal = Volume(np.where(labels > 0, 700.0, 100.0).astype(np.float32), affine, FRAME)

    first, second = measure_lesions(Volume(labels, affine, FRAME), probability, {"flair": (signal, np.eye(4))})

    assert (first.label, first.voxel_count, second.voxel_count) == (1, 80, 2)
    values = {each.name: (each.value, each.unit) for each in first.measurements}
    assert values["volume"] == (pytest.approx(80 * 2.4 / 1000), "ml")
    assert values["mean_intensity_flair"] == (pytest.approx(700.0), "1")
    assert values["maximum_3d_diameter"][0] >= values["long_axis"][0] == pytest.approx(first.long_axis.length_mm)
    assert first.centroid_lps_mm == pytest.approx(index_to_lps(affine, (3.5, 4.5, 6.0)))
    assert first.mean_probability == pytest.approx(0.75)


def test_an_image_that_does_not_reach_the_lesion_is_not_measured() -> None:
    image = Volume(np.ones((4, 4, 4), np.float32), axial_affine((4, 4, 4), (1, 1, 1), (500, 0, 0)), FRAME)

    assert measure_mean_intensity(np.array([[1, 1, 1]]), AFFINE, "t1", image, np.eye(4)) is None


def test_no_brain_has_no_load() -> None:
    assert measure_lesion_load(1.0, 0.0).value == 0.0
