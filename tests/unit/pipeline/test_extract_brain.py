"""A mask is one plausible brain, or the case is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.geometry import axial_affine, grid_of
from pipeline.preprocess.crop import apply_box, plan_head_box
from pipeline.preprocess.extract_brain import (
    apply_brain_threshold,
    find_brain_problem,
    find_coverage_remarks,
    move_brain,
)
from pipeline.records import Volume
from tests.factories.volumes import FRAME

SHAPE = (60, 70, 60)


def ball(radius_mm: float, centre: tuple[int, int, int] = (30, 35, 30)) -> np.ndarray:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    distance_mm = 3.0 * np.linalg.norm(index - np.array(centre), axis=-1)
    return (1 / (1 + np.exp((distance_mm - radius_mm) / 2))).astype(np.float32)


def on_grid(probability: np.ndarray) -> Volume:
    return Volume(probability, axial_affine(SHAPE, (3, 3, 3), (0, 0, 0)), FRAME)


def test_islands_go_and_holes_are_filled() -> None:
    probability = ball(70)
    probability[30, 35, 30] = 0.0
    probability[2, 2, 2] = 0.9

    brain = apply_brain_threshold(on_grid(probability), 0.5)

    assert brain.mask.array[30, 35, 30] == 1
    assert brain.mask.array[2, 2, 2] == 0
    assert brain.volume_ml == pytest.approx(4 / 3 * np.pi * 7.0**3, rel=0.03)
    assert find_brain_problem(brain) is None


def test_the_soft_brain_crosses_the_threshold_at_the_mask_s_edge() -> None:
    brain = apply_brain_threshold(on_grid(ball(70)), 0.4)

    assert np.array_equal(brain.soft.array >= 0.4, brain.mask.array > 0)


@pytest.mark.parametrize(
    ("radius_mm", "code"), [(40, "brain-implausible"), (85, "brain-implausible"), (0, "brain-implausible")]
)
def test_an_implausible_volume_is_named(radius_mm: float, code: str) -> None:
    problem = find_brain_problem(
        apply_brain_threshold(on_grid(ball(radius_mm) if radius_mm else np.zeros(SHAPE, np.float32)), 0.5)
    )

    assert problem is not None
    assert problem.code == code
    assert " ml" in str(problem)


def test_pieces_are_named() -> None:
    probability = np.maximum(ball(54, (30, 18, 30)), ball(45, (30, 54, 30)))

    problem = find_brain_problem(apply_brain_threshold(on_grid(probability), 0.5))

    assert problem is not None
    assert problem.code == "brain-in-pieces"


def test_a_brain_moves_with_the_link() -> None:
    brain = apply_brain_threshold(on_grid(ball(66)), 0.5)
    link = np.eye(4)
    link[:3, 3] = (6.0, 0.0, -9.0)

    moved = move_brain(brain, grid_of(brain.mask), link)

    shift = np.argwhere(moved.mask.array).mean(axis=0) - np.argwhere(brain.mask.array).mean(axis=0)
    assert shift == pytest.approx([3.0, 0.0, -2.0], abs=0.1)
    assert moved.volume_ml == pytest.approx(brain.volume_ml, rel=0.02)


@pytest.mark.parametrize(
    ("first", "last", "codes"),
    [(0, 60, []), (0, 30, ["brain-not-covered"]), (30, 60, ["brain-not-covered"]), (9, 60, [])],
)
def test_a_volume_that_ends_inside_the_brain_is_remarked(first: int, last: int, codes: list[str]) -> None:
    mask = apply_brain_threshold(on_grid(ball(70)), 0.5).mask
    part = Volume(mask.array[first:last], mask.affine, FRAME)

    assert [remark.code for remark in find_coverage_remarks(part)] == codes


@pytest.mark.parametrize(
    ("axis", "part", "side"),
    [(2, slice(0, 40), "on the left"), (2, slice(24, 64), "on the right"), (1, slice(24, 64), "in front")],
)
def test_a_side_of_the_brain_that_was_not_imaged_is_remarked(axis: int, part: slice, side: str) -> None:
    mask = apply_brain_threshold(on_grid(ball(70)), 0.5).mask
    cut = Volume(mask.array[tuple(part if k == axis else slice(None) for k in range(3))], mask.affine, FRAME)

    assert [remark.value for remark in find_coverage_remarks(cut)] == [side]


def test_the_head_s_box_starts_at_the_crown_and_leaves_the_air() -> None:
    image = np.zeros((50, 40, 60), np.float32)
    image[5:41, 8:33, 30:52] = 100.0
    image += np.random.default_rng(1).random(image.shape, dtype=np.float32)

    box = plan_head_box(image, (30, 40, 32))

    assert box == (slice(14, 44), slice(0, 40), slice(25, 57))


def test_a_box_keeps_every_voxel_in_its_place() -> None:
    volume = on_grid(ball(70))
    grid = grid_of(volume)

    part, small = apply_box(volume.array[None], grid, (slice(10, 40), slice(5, 60), slice(0, 50)))

    assert np.array_equal(part[0], volume.array[10:40, 5:60, 0:50])
    assert np.allclose(small.affine[:3, 3], (grid.affine @ (10, 5, 0, 1))[:3])


def test_a_field_of_view_without_a_head_is_kept_whole() -> None:
    assert plan_head_box(np.zeros((9, 9, 9), np.float32), (4, 4, 4)) == (slice(0, 9),) * 3
