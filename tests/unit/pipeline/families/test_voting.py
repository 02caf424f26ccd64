"""A vote that is not yet cut, and how many voted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.inference.voting import majority, mean, move_threshold, vote_share


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_the_majority_reaches_a_threshold_where_more_than_half_of_the_maps_do(count: int) -> None:
    levels = np.array([0.1, 0.4, 0.6, 0.9], np.float32)
    maps = np.array(list(itertools.product(levels, repeat=count)), np.float32).T

    for threshold in (0.05, 0.3, 0.5, 0.6, 0.95):
        votes = (maps >= threshold).sum(axis=0)
        assert np.array_equal(majority(maps) >= threshold, 2 * votes > count)
        assert np.allclose(vote_share(list(maps), threshold), votes / count)
    assert np.array_equal(mean(list(maps)), maps.mean(axis=0, dtype=np.float32))


def test_a_moved_threshold_moves_who_votes() -> None:
    probability = np.array([0.0, 0.19, 0.21, 0.5, 1.0], np.float32)

    moved = move_threshold(probability, 0.2, 0.5)

    assert (moved >= 0.5).tolist() == [False, False, True, True, True]
    assert moved[[0, 4]].tolist() == [0.0, 1.0]
    assert (np.diff(moved) > 0).all()
    assert move_threshold(probability, 0.5, 0.5) is probability
