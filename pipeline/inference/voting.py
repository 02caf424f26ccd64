"""Several probability maps of one case made one.

They are joined by majority or by mean, with the share of maps that vote for a voxel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.records import FloatArray


def move_threshold(probability: FloatArray, own_threshold: float, common: float) -> FloatArray:
    """Return the probabilities with their odds scaled so that `own` becomes `common`.

    Who voted at `own` votes at `common`.
    """
    if own_threshold == common:
        return probability
    # odds = p / (1 - p); the factor takes the odds of `own` to those of `common`, and every other probability
    # with them.
    factor = np.float32(common / (1 - common) * (1 - own_threshold) / own_threshold)
    scaled: FloatArray = probability * factor / (probability * factor + (1 - probability))
    return scaled


def majority(maps: FloatArray) -> FloatArray:
    """Return, for each voxel, the largest value that more than half of the maps (map, ...) reach.

    A voxel of it reaches a threshold exactly where more than half of the maps do, whatever the threshold: it
    is a vote that is not yet cut. Of three maps it is the median.
    """
    # Sorted upwards, entry count - k is the largest value that k maps reach; a majority is k = count // 2 +
    # 1.
    count = len(maps)
    middle_values: FloatArray = np.sort(maps, axis=0)[count - (count // 2 + 1)]
    return middle_values


def mean(maps: Sequence[FloatArray]) -> FloatArray:
    """Return the mean of the maps, float32, added in their order."""
    total: FloatArray = maps[0].astype(np.float32)
    for probability in maps[1:]:
        total += probability
    total /= np.float32(len(maps))
    return total


def vote_share(maps: Sequence[FloatArray], threshold: float) -> FloatArray:
    """Return the share of the maps that reach the threshold, float32."""
    return mean([(probability >= threshold).astype(np.float32) for probability in maps])
