"""Tiles cover everything, and blending an honest network changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.inference.sliding_window import apply_tiles, plan_tiles
from pipeline.records import FloatArray

sizes = st.tuples(*(st.integers(1, 13) for _ in range(3)))
patches = st.tuples(*(st.integers(1, 7) for _ in range(3)))


def double(patch: FloatArray) -> FloatArray:
    return 2 * patch[:1]


@given(shape=sizes, patch=patches, step=st.sampled_from([0.3, 0.5, 1.0]), gaussian=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_voxelwise_network_comes_back_exactly(
    shape: tuple[int, ...], patch: tuple[int, ...], step: float, gaussian: bool
) -> None:
    image = np.random.default_rng(1).random((2, *shape), dtype=np.float32)

    answer = apply_tiles(double, image, plan_tiles(shape, patch, step, gaussian=gaussian))

    assert answer.shape == (1, *shape)
    assert answer.dtype == np.float32
    assert np.allclose(answer, 2 * image[:1], rtol=1e-5)


def test_one_tile_runs_once_and_sees_the_image_as_it_is() -> None:
    seen: list[FloatArray] = []
    image = np.random.default_rng(2).random((1, 4, 5, 6), dtype=np.float32)

    apply_tiles(
        lambda patch: (seen.append(patch), patch)[1],
        image,
        plan_tiles((4, 5, 6), (4, 5, 6), 0.5, gaussian=True),
    )

    assert len(seen) == 1
    assert np.array_equal(seen[0], image)


def test_a_small_image_is_padded_with_zeros_in_the_middle_of_the_patch() -> None:
    seen: list[FloatArray] = []
    image = np.ones((1, 2, 3, 3), np.float32)

    answer = apply_tiles(
        lambda patch: (seen.append(patch), patch)[1],
        image,
        plan_tiles((2, 3, 3), (5, 3, 3), 0.5, gaussian=True),
    )

    assert seen[0].shape == (1, 5, 3, 3)
    assert seen[0][0, :, 0, 0].tolist() == [0, 1, 1, 0, 0]
    assert np.array_equal(answer, image)


@pytest.mark.parametrize(
    ("size", "patch", "starts"),
    [(10, 10, [0]), (11, 10, [0, 1]), (15, 10, [0, 5]), (20, 10, [0, 5, 10]), (16, 10, [0, 3, 6])],
)
def test_tiles_are_spread_evenly_as_in_nnunet(size: int, patch: int, starts: list[int]) -> None:
    plan = plan_tiles((size, 4, 4), (patch, 4, 4), 0.5, gaussian=True)

    assert [corner[0] for corner in plan.corners] == starts


def test_the_middle_of_a_tile_counts_more_than_its_rim() -> None:
    """Each tile answers with its own number; near the middle of a tile its own number wins."""
    numbers = iter([0.0, 1.0])
    plan = plan_tiles((12, 1, 1), (8, 1, 1), 0.5, gaussian=True)

    blended = apply_tiles(
        lambda patch: np.full_like(patch, next(numbers)), np.zeros((1, 12, 1, 1), np.float32), plan
    )[0, :, 0, 0]

    assert np.all(np.diff(blended) >= 0)
    assert blended[4] < 0.05
    assert blended[7] > 0.5
