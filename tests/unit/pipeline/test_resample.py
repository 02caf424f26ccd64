"""Onto the network's grid: the right place, no aliasing, zero where nothing was imaged."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pipeline.errors import BundleError
from pipeline.geometry import Grid, axial_affine, grid_of, index_to_lps
from pipeline.preprocess import resample
from pipeline.preprocess.resample import (
    IDENTITY,
    apply_resampling,
    find_inside,
    plan_covering_grid,
    plan_mask_grid,
    sample_gaussian_linear,
    sample_linear,
)
from pipeline.records import Volume
from tests.factories.volumes import AXIAL, FRAME, SAGITTAL, grid_affine, rotation


def ramp(directions: object, shape: tuple[int, int, int] = (20, 24, 28)) -> Volume:
    """An image whose value is x + 10 y + 100 z in mm, so that any place can be read off."""
    affine = grid_affine(shape, (2.0, 1.5, 1.0), directions=directions, centre_mm=(5, 6, 7))  # type: ignore[arg-type]
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    return Volume((points @ (1.0, 10.0, 100.0)).astype(np.float32), affine, FRAME)


@pytest.mark.parametrize("directions", [AXIAL, SAGITTAL, np.array(AXIAL) @ rotation((1, 2, 3), 20).T])
def test_values_are_read_at_the_right_place(directions: object) -> None:
    volume = ramp(directions)
    grid = Grid((3, 4, 5), axial_affine((3, 4, 5), (1.3, 1.1, 0.9), (5.2, 6.1, 7.3)), FRAME)

    found = sample_linear(volume, grid)

    for index in np.ndindex(3, 4, 5):
        x, y, z = index_to_lps(grid.affine, index)
        assert found[index] == pytest.approx(x + 10 * y + 100 * z, abs=0.05)


def test_a_link_moves_the_place_that_is_read() -> None:
    volume = ramp(AXIAL)
    grid = Grid((1, 1, 1), axial_affine((1, 1, 1), (1, 1, 1), (5, 6, 7)), FRAME)
    link = np.eye(4)
    link[:3, 3] = (1.0, 2.0, -1.0)

    assert sample_linear(volume, grid, link)[0, 0, 0] == pytest.approx(6 + 80 + 600, abs=0.05)


def test_a_voxel_reaches_half_its_size_beyond_its_centre() -> None:
    volume = Volume(np.full((4, 5, 6), 7, np.int16), axial_affine((4, 5, 6), (6, 1, 1), (0, 0, 0)), FRAME)
    grid = Grid((25, 1, 1), axial_affine((25, 1, 1), (1, 1, 1), (0, 0, 0.5)), FRAME)

    # Four slices of 6 mm cover 24 mm.
    assert sample_linear(volume, grid)[:, 0, 0].tolist() == [7.0] * 24 + [0.0]


def test_outside_the_field_of_view_is_zero() -> None:
    volume = ramp(AXIAL)
    far = Grid((2, 2, 2), axial_affine((2, 2, 2), (1, 1, 1), (500, 0, 0)), FRAME)

    assert not sample_gaussian_linear(volume, far).any()


def test_a_coarser_grid_is_blurred_first_and_a_finer_one_is_not() -> None:
    checkers = np.indices((40, 40, 40)).sum(axis=0) % 2 * 2.0
    volume = Volume(checkers.astype(np.float32), axial_affine((40, 40, 40), (1, 1, 1), (0, 0, 0)), FRAME)
    coarse = Grid((5, 5, 5), axial_affine((5, 5, 5), (4, 4, 4), (0, 0, 0)), FRAME)
    same = Grid((5, 5, 5), axial_affine((5, 5, 5), (1, 1, 1), (0.5, 0.5, 0.5)), FRAME)

    assert sample_gaussian_linear(volume, coarse) == pytest.approx(1.0, abs=0.01)
    assert np.ptp(sample_gaussian_linear(volume, same)) == pytest.approx(2.0)


def test_the_blur_is_the_manifest_s_formula() -> None:
    """A point source on a grid twice as coarse: variance (0.42^2 * 3) voxels^2 plus what linear interpolation reads."""
    array = np.zeros((41, 9, 9), np.float32)
    array[20] = 1.0
    volume = Volume(array, axial_affine((41, 9, 9), (1, 1, 1), (0, 0, 0)), FRAME)
    grid = Grid((20, 1, 1), axial_affine((20, 1, 1), (2, 1, 1), (0, 0, 1)), FRAME)

    profile = sample_gaussian_linear(volume, grid)[:, 0, 0]

    sigma = 0.42 * np.sqrt(3)
    middle = np.exp(-0.5 * (np.arange(-4, 5) / sigma) ** 2).sum()
    assert profile.max() == pytest.approx(1 / middle, rel=0.02)


def test_an_unknown_scheme_is_refused() -> None:
    volume = ramp(AXIAL)

    with pytest.raises(BundleError, match="nnunet"):
        apply_resampling("nnunet", volume, grid_of(volume))


def test_a_covering_grid_holds_the_whole_field_of_view_and_one_patch() -> None:
    volume = ramp(np.array(AXIAL) @ rotation((1, 0, 0), 30).T)

    grid = plan_covering_grid(grid_of(volume), (3.0, 3.0, 3.0), (24, 8, 8))

    assert grid.shape[0] == 24
    assert sample_linear(volume.with_array(np.ones_like(volume.array)), grid).sum() * 27 == pytest.approx(
        20 * 24 * 28 * 3, rel=0.2
    )
    assert index_to_lps(grid.affine, (np.array(grid.shape) - 1) / 2) == pytest.approx((5, 6, 7))


def test_the_network_s_grid_is_centred_on_the_brain_s_box() -> None:
    array = np.zeros((30, 30, 30), np.uint8)
    array[4:10, 12:20, 20:29] = 1
    mask = Volume(array, axial_affine((30, 30, 30), (3, 3, 3), (0, 0, 0)), FRAME)

    small = plan_mask_grid(mask, (2.0, 2.0, 2.0), (10, 10, 10))
    middle = index_to_lps(small.affine, (np.array(small.shape) - 1) / 2)

    assert middle == pytest.approx(index_to_lps(mask.affine, (6.5, 15.5, 24.0)))
    # 27 mm wide does not fit into 20 mm: the grid grows and is tiled.
    assert small.shape == (10, 12, 14)


@pytest.mark.parametrize("shape", [(9, 8, 7), (1, 12, 5), (6, 1, 1)])
def test_two_cores_blur_as_one_does_to_the_bit(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resample, "is_straight", lambda *_: False)
    array = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    volume = Volume(array, np.diag([1.0, 1.0, 1.0, 1.0]), "1.2.3")
    grid = Grid(shape, np.diag([3.0, 2.5, 4.0, 1.0]), "1.2.3")

    on_two = sample_gaussian_linear(volume, grid)

    blurred = array
    for axis, ratio in enumerate((3.0, 2.5, 4.0)):
        sigma = 0.42 * np.sqrt(ratio**2 - 1)
        blurred = ndimage.gaussian_filter1d(blurred, sigma, axis=axis, mode="nearest")
    assert sample_linear(volume.with_array(blurred), grid).tobytes() == on_two.tobytes()


def test_what_lies_inside_is_where_a_volume_of_ones_is_one() -> None:
    random = np.random.default_rng(2)
    for _ in range(20):
        affine, link = np.eye(4), np.eye(4)
        affine[:3, :3] = np.linalg.qr(random.normal(size=(3, 3)))[0] * random.uniform(0.5, 4, 3)
        link[:3, :3] = np.linalg.qr(random.normal(size=(3, 3)))[0]
        link[:3, 3] = random.uniform(-9, 9, 3)
        ones = Volume(np.ones((9, 14, 11), np.float32), affine, "1.2.3")
        middle = np.linalg.inv(link) @ affine @ (4, 6.5, 5, 1)
        grid_affine = np.diag([1.5, 2.0, 2.5, 1.0])
        grid_affine[:3, 3] = middle[:3] - grid_affine[:3, :3] @ (7, 8, 9)
        grid = Grid((15, 17, 19), grid_affine, "1.2.3")

        inside = find_inside(ones, grid, link)

        assert inside.any()
        assert not inside.all()
        assert (inside == (sample_linear(ones, grid, link) > 0.999)).all()


def _on_its_axes(random: np.random.Generator) -> tuple[Volume, Grid]:
    """An image and a grid whose axes run along its own: sizes, spacings, places, flips and ties of all kinds."""
    shape = tuple(random.integers(1, 40, 3).tolist())
    target = tuple(random.integers(1, 40, 3).tolist())
    tied = random.random() < 0.5
    spacing = random.choice([0.5, 1.0, 2.0, 6.0], 3) if tied else random.uniform(0.4, 7.0, 3)
    target_spacing = random.choice([0.5, 1.0, 3.0], 3) if tied else random.uniform(0.4, 7.0, 3)
    flips = np.where(random.random(3) < 0.3, -1.0, 1.0)
    affine, other = np.eye(4), np.eye(4)
    affine[:3, :3], other[:3, :3] = np.fliplr(np.diag(spacing * flips)), np.fliplr(np.diag(target_spacing))
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    other[:3, 3] = -other[:3, :3] @ (np.array(target) - 1) / 2 + (0 if tied else random.uniform(-4, 4, 3))
    return Volume(random.random(shape, np.float32), affine, FRAME), Grid(target, other, FRAME)


@pytest.mark.parametrize("seed", range(150))
def test_axes_that_run_along_each_other_are_sampled_as_all_others(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, grid = _on_its_axes(np.random.default_rng(seed))

    quick = sample_gaussian_linear(volume, grid)
    monkeypatch.setattr(resample, "is_straight", lambda *_: False)
    general = sample_gaussian_linear(volume, grid)

    assert quick.dtype == np.float32
    assert quick.flags.c_contiguous
    # Places at the very rim of the field of view (half a voxel outside the outer centres) may fall either way.
    rim = _near_rim(volume, grid)
    assert np.abs(quick - general)[~rim].max(initial=0) < 2e-6


@pytest.mark.parametrize("seed", range(80))
def test_only_what_a_grid_needs_of_an_image_is_looked_at(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(seed)
    volume, grid = _on_its_axes(random)
    moved = np.eye(4)
    if seed % 2:
        moved[:3, :3] = rotation(tuple(random.uniform(-1, 1, 3)), random.uniform(0, 40))
    # Inside, across the rim, and far outside on either side.
    moved[:3, 3] = random.choice([0.0, 20.0, 500.0]) * random.uniform(-1, 1, 3)

    quick = [sample(volume, grid, moved) for sample in (sample_linear, sample_gaussian_linear)]
    monkeypatch.setattr(resample, "_crop", lambda array, matrix, *_: (array, matrix))
    whole = [sample(volume, grid, moved) for sample in (sample_linear, sample_gaussian_linear)]

    rim = _near_rim(volume, grid, moved)
    for part, expected in zip(quick, whole, strict=True):
        assert np.abs(part - expected)[~rim].max(initial=0) < 2e-6


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("tilt_deg", [0.0, 12.0])
def test_a_part_of_the_voxels_is_that_part_of_the_whole_answer(seed: int, tilt_deg: float) -> None:
    random = np.random.default_rng(seed)
    volume, grid = _on_its_axes(random)
    turned = np.eye(4)
    turned[:3, :3] = rotation(tuple(random.uniform(-1, 1, 3)), tilt_deg)
    every = int(random.integers(1, 5))

    part = sample_gaussian_linear(volume, grid, turned, every=every)

    whole = sample_gaussian_linear(volume, grid, turned)[::every, ::every, ::every]
    rim = _near_rim(volume, grid, turned)[::every, ::every, ::every]
    assert part.shape == whole.shape == grid.thin(every).shape
    assert np.abs(part - whole)[~rim].max(initial=0) < 2e-6


def _near_rim(volume: Volume, grid: Grid, link: np.ndarray = IDENTITY) -> np.ndarray:
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    matrix = np.linalg.inv(volume.affine) @ link @ grid.affine
    place = index @ matrix[:3, :3].T + matrix[:3, 3]
    sizes = np.array(volume.array.shape)
    return ((np.abs(place + 0.5) < 1e-5) | (np.abs(place - sizes + 0.5) < 1e-5)).any(axis=-1)


@pytest.mark.parametrize("tilt_deg", [1e-5, 0.01, 20.0])
def test_the_least_tilt_counts(tilt_deg: float, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = ramp(np.array(AXIAL) @ rotation((1, 2, 3), tilt_deg).T)
    grid = Grid((30, 30, 30), axial_affine((30, 30, 30), (3.0, 3.0, 3.0), (5, 6, 7)), FRAME)

    found = sample_gaussian_linear(volume, grid)
    monkeypatch.setattr(resample, "is_straight", lambda *_: False)

    assert np.array_equal(found, sample_gaussian_linear(volume, grid))
