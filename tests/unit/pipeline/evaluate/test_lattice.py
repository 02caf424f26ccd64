"""Masks that were stored in another index order are laid on the truth exactly; whatever would need resampling is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.errors import GeometryError
from pipeline.evaluate.lattice import covering_grid, lay_on_grid
from pipeline.geometry import Orientation, grid_of, reorient
from pipeline.records import Volume
from tests.factories.volumes import AXIAL, grid_affine, rotation

SHAPE = (7, 9, 11)
AFFINE = grid_affine(
    SHAPE, (3.0, 1.1, 0.9), directions=np.array(AXIAL) @ rotation((1, 2, 3), 25).T, centre_mm=(4, -7, 30)
)


def truth() -> Volume:
    array = (np.random.default_rng(3).random(SHAPE) > 0.8).astype(np.uint8)
    return Volume(array, AFFINE, "1.2.3")


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True)])
def test_every_index_order_comes_back(axes: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> None:
    stored = reorient(truth(), Orientation(axes, flips))

    laid = lay_on_grid(stored, grid_of(truth()), whole=True)

    assert np.array_equal(laid.array, truth().array)
    assert np.array_equal(laid.affine, AFFINE)


def part_of(volume: Volume, start: tuple[int, int, int]) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    return Volume(volume.array[tuple(slice(n, None) for n in start)], affine, volume.frame_of_reference_uid)


def test_a_mask_of_some_slices_is_laid_where_it_belongs() -> None:
    laid = lay_on_grid(part_of(truth(), (2, 0, 3)), grid_of(truth()), whole=False)

    assert np.array_equal(laid.array[2:, :, 3:], truth().array[2:, :, 3:])
    assert not laid.array[:2].any()
    assert not laid.array[:, :, :3].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: np.diag([2.0, 1.0, 1.0, 1.0]) @ a, "do not lie on a grid"),
        (
            lambda a: a + np.array([[0, 0, 0, 0.4], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),
            "mm beside the other's",
        ),
        (
            lambda a: np.block([[rotation((0, 0, 1), 3) @ a[:3, :3], a[:3, 3:]], [a[3:]]]),
            "mm beside the other's",
        ),
    ],
    ids=["voxel size", "half a voxel", "turned"],
)
def test_what_needs_resampling_is_refused(change, message: str) -> None:
    other = Volume(truth().array, change(AFFINE), "1.2.3")

    with pytest.raises(GeometryError, match=message):
        lay_on_grid(other, grid_of(truth()), whole=False)


def test_a_file_that_covers_another_part_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"covers 2\.\.6 x 0\.\.8 x 3\.\.10 of a grid of 7 x 9 x 11"):
        lay_on_grid(part_of(truth(), (2, 0, 3)), grid_of(truth()), whole=True)


def test_a_mark_outside_of_the_grid_is_refused() -> None:
    small = part_of(truth(), (2, 0, 0))

    with pytest.raises(GeometryError, match="outside"):
        lay_on_grid(truth(), grid_of(small), whole=False)


def test_two_partial_masks_meet_on_a_grid_that_holds_both() -> None:
    first, second = (
        part_of(truth(), (3, 0, 0)),
        reorient(part_of(truth(), (0, 4, 2)), Orientation((2, 1, 0), (True, False, True))),
    )

    grid = covering_grid(first, second)
    laid = [lay_on_grid(mask, grid, whole=False).array for mask in (first, second)]

    assert grid.shape == SHAPE
    assert np.array_equal(laid[0][3:], truth().array[3:])
    assert np.array_equal(laid[1][:, 4:, 2:], truth().array[:, 4:, 2:])
