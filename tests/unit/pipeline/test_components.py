"""From probability to numbered lesions on the source's own grid."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import GeometryError
from pipeline.geometry import Grid, apply_affine, axial_affine, grid_of
from pipeline.postprocess.components import apply_components, apply_peak
from pipeline.postprocess.threshold import apply_brain_limit, apply_threshold
from pipeline.postprocess.to_source_grid import apply_to_source_grid
from pipeline.records import Volume
from tests.factories.volumes import AXIAL, FRAME, SAGITTAL, grid_affine, rotation


def three_pieces() -> np.ndarray:
    mask = np.zeros((10, 12, 14), np.uint8)
    mask[1, 1, 1] = mask[2, 2, 2] = 1  # joined by a corner
    mask[5:8, 5:8, 5:8] = 1
    mask[9, 11, 10:14] = 1
    return mask


@pytest.mark.parametrize(("connectivity", "sizes"), [(26, [27, 4, 2]), (6, [27, 4, 1, 1])])
def test_pieces_are_numbered_by_falling_volume(connectivity: int, sizes: list[int]) -> None:
    labels, dropped = apply_components(three_pieces(), connectivity, 0.0, 1.0)

    assert labels.dtype == np.uint16
    assert np.bincount(labels.ravel())[1:].tolist() == sizes
    assert dropped == 0
    assert np.array_equal(labels > 0, three_pieces() > 0)


@pytest.mark.parametrize(
    ("minimum_mm3", "kept"), [(0.0, 3), (4.0, 3), (8.0, 2), (8.1, 1), (54.0, 1), (54.1, 0)]
)
def test_the_minimum_is_in_mm3_and_a_lesion_of_just_that_size_stays(minimum_mm3: float, kept: int) -> None:
    labels, dropped = apply_components(three_pieces(), 26, minimum_mm3, 2.0)

    assert labels.max() == kept
    assert dropped == 3 - kept


def faint_and_sure() -> np.ndarray:
    probability = three_pieces().astype(np.float32) * np.float32(0.3)
    probability[2, 2, 2] = 0.9
    probability[6, 6, 6] = 0.7
    return probability


@pytest.mark.parametrize(
    ("connectivity", "peak", "voxels"), [(26, 0.9, 2), (6, 0.9, 1), (26, 0.7, 29), (26, 0.91, 0)]
)
def test_a_piece_stays_whole_where_it_somewhere_reaches_the_peak(
    connectivity: int, peak: float, voxels: int
) -> None:
    probability = faint_and_sure()

    kept, dropped = apply_peak(probability, 0.25, peak, connectivity)

    assert np.count_nonzero(kept) == voxels
    assert np.array_equal(kept[kept > 0], probability[kept > 0])
    pieces = apply_components((probability >= 0.25).astype(np.uint8), connectivity, 0.0, 1.0)[0].max()
    assert (
        dropped
        == pieces - apply_components((kept >= 0.25).astype(np.uint8), connectivity, 0.0, 1.0)[0].max()
        > 0
    )
    # What lies below the threshold is nobody's piece and stays as it is.
    below = probability.copy()
    below[0, 0, 0] = 0.2
    assert apply_peak(below, 0.25, peak, connectivity)[0][0, 0, 0] == np.float32(0.2)


@pytest.mark.parametrize("peak", [0.0, 0.25, 0.3])
def test_a_peak_that_every_piece_reaches_changes_nothing(peak: float) -> None:
    probability = faint_and_sure()

    kept, dropped = apply_peak(probability, 0.25, peak, 26)

    assert kept is probability
    assert dropped == 0


def test_no_lesion_is_an_answer() -> None:
    labels, dropped = apply_components(np.zeros((4, 4, 4), np.uint8), 26, 50.0, 1.0)

    assert (labels.max(), dropped) == (0, 0)


def test_the_threshold_itself_counts() -> None:
    assert apply_threshold(np.array([[[0.49, 0.5, 0.51]]], np.float32), 0.5).ravel().tolist() == [0, 1, 1]


@pytest.mark.parametrize(("margin_mm", "reach"), [(0.0, 0), (2.0, 1), (4.5, 2)])
def test_the_brain_limit_is_in_mm_on_thick_slices_too(margin_mm: float, reach: int) -> None:
    mask = np.zeros((5, 11, 11), np.uint8)
    mask[2, 5, 5] = 1
    affine = axial_affine((5, 11, 11), (6.0, 2.0, 2.0), (0, 0, 0))
    ones = Volume(np.ones(mask.shape, np.float32), affine, FRAME)

    limited = apply_brain_limit(ones, Volume(mask, affine, FRAME), margin_mm).array

    assert limited[2, 5].sum() == 1 + 2 * reach
    assert limited[1].sum() == 0


@pytest.mark.parametrize("directions", [AXIAL, SAGITTAL, np.array(AXIAL) @ rotation((2, 1, 1), 35).T])
def test_a_probability_arrives_at_its_place(directions: object) -> None:
    coarse = Grid((20, 22, 24), axial_affine((20, 22, 24), (2, 2, 2), (3, 4, 5)), FRAME)
    points = apply_affine(
        coarse.affine, np.stack(np.meshgrid(*(np.arange(n) for n in coarse.shape), indexing="ij"), axis=-1)
    )
    field = coarse.fill(((points @ (1.0, 2.0, 3.0)) / 1000 + 0.5).astype(np.float32))
    fine = Grid(
        (9, 10, 11),
        grid_affine((9, 10, 11), (1.7, 0.9, 1.3), directions=directions, centre_mm=(3, 4, 5)),
        FRAME,
    )  # type: ignore[arg-type]

    moved = apply_to_source_grid(field, fine)

    places = apply_affine(
        fine.affine, np.stack(np.meshgrid(*(np.arange(n) for n in fine.shape), indexing="ij"), axis=-1)
    )
    assert moved.array == pytest.approx((places @ (1.0, 2.0, 3.0)) / 1000 + 0.5, abs=1e-5)
    assert moved.array.dtype == np.float32


def test_outside_the_network_s_grid_the_probability_is_zero() -> None:
    small = Volume(np.ones((4, 4, 4), np.float32), axial_affine((4, 4, 4), (2, 2, 2), (0, 0, 0)), FRAME)
    wide = Grid((20, 20, 20), axial_affine((20, 20, 20), (2, 2, 2), (0, 0, 0)), FRAME)

    moved = apply_to_source_grid(small, wide).array

    assert moved.sum() == pytest.approx(64)
    assert not moved[:8].any()


def test_the_same_grid_is_not_interpolated() -> None:
    volume = Volume(
        np.random.default_rng(0).random((4, 5, 6), dtype=np.float32),
        axial_affine((4, 5, 6), (1, 1, 1), (0, 0, 0)),
        FRAME,
    )

    assert apply_to_source_grid(volume, grid_of(volume)) is volume


def test_another_frame_of_reference_is_refused() -> None:
    volume = Volume(np.zeros((4, 5, 6), np.float32), np.eye(4), FRAME + ".7")

    with pytest.raises(GeometryError) as caught:
        apply_to_source_grid(volume, Grid((4, 5, 6), np.eye(4), FRAME))

    assert caught.value.code == "frame-of-reference-mismatch"
