"""Affines and grids: the examples in the docstrings run, and reorienting loses nothing."""

from __future__ import annotations

import doctest
import itertools

import numpy as np
import pytest

import pipeline.geometry
import pipeline.measure.extremes
import pipeline.measure.volume
from pipeline.errors import GeometryError
from pipeline.geometry import (
    Grid,
    Orientation,
    apply_affine,
    grid_of,
    inverse,
    orientation_of,
    reorient,
    same_grid,
    spacing_mm,
    voxel_volume_mm3,
)
from pipeline.records import Volume
from tests.factories.volumes import AXIAL, FRAME, SAGITTAL, grid_affine, rotation

ORDERS = [
    Orientation((axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]))
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


@pytest.mark.parametrize("module", [pipeline.geometry, pipeline.measure.extremes, pipeline.measure.volume])
def test_docstring_examples_run(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]

    assert result.attempted > 0
    assert result.failed == 0


def asymmetric() -> Volume:
    array = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    directions = np.array(SAGITTAL) @ rotation((3, 1, 2), 20).T
    return Volume(
        array, grid_affine((2, 3, 4), (4.0, 0.7, 1.1), directions=directions, centre_mm=(9, -8, 7)), FRAME
    )


@pytest.mark.parametrize("order", ORDERS)
def test_every_reordering_keeps_each_voxel_in_its_place_and_can_be_undone(order: Orientation) -> None:
    volume = asymmetric()

    moved = reorient(volume, order)
    back = reorient(moved, inverse(order))

    for index in np.argwhere(moved.array >= 0):
        place = apply_affine(moved.affine, index)
        there = np.rint(apply_affine(np.linalg.inv(volume.affine), place)).astype(int)
        assert moved.array[tuple(index)] == volume.array[tuple(there)]
    assert np.array_equal(back.array, volume.array)
    assert np.allclose(back.affine, volume.affine)
    assert voxel_volume_mm3(moved.affine) == pytest.approx(voxel_volume_mm3(volume.affine))


@pytest.mark.parametrize("order", ORDERS)
def test_canonical_order_is_found_from_any_order(order: Orientation) -> None:
    axial = Volume(
        np.zeros((3, 4, 5)),
        grid_affine((3, 4, 5), (3, 2, 1), directions=np.array(AXIAL) @ rotation((1, 1, 0), 12).T),
        FRAME,
    )
    stored = reorient(axial, order)

    found = reorient(stored, orientation_of(stored.affine))

    assert found.array.shape == (3, 4, 5)
    assert np.allclose(found.affine, axial.affine)


def test_an_ambiguous_oblique_grid_still_gets_a_permutation() -> None:
    affine = grid_affine((3, 3, 3), (1, 1, 1), directions=np.array(AXIAL) @ rotation((1, 1, 1), 60).T)

    assert sorted(orientation_of(affine).axes) == [0, 1, 2]


def test_grids_in_another_frame_of_reference_are_not_the_same() -> None:
    volume = asymmetric()
    other = Volume(volume.array, volume.affine, FRAME + ".2")

    assert same_grid(volume, grid_of(volume))
    assert not same_grid(volume, other)


@pytest.mark.parametrize("shift_mm", [0.0005, 0.01])
def test_a_shift_counts_from_a_micrometre(shift_mm: float) -> None:
    volume = asymmetric()
    affine = volume.affine.copy()
    affine[0, 3] += shift_mm

    assert same_grid(volume, Volume(volume.array, affine, FRAME)) is (shift_mm < 0.001)


def test_a_sheared_grid_has_the_volume_of_its_parallelepiped() -> None:
    affine = np.array([[1.0, 0.5, 0, 0], [0, 2.0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1.0]])

    assert voxel_volume_mm3(affine) == pytest.approx(6.0)
    assert spacing_mm(affine)[1] == pytest.approx(np.hypot(0.5, 2.0))


def test_a_grid_takes_only_its_own_shape() -> None:
    with pytest.raises(GeometryError) as caught:
        Grid((2, 2, 2), np.eye(4), FRAME).fill(np.zeros((2, 2, 3)))

    assert caught.value.code == "grid-mismatch"
