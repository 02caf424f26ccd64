"""Tiles and blending: runs a callable over overlapping patches. Knows no ONNX and no image geometry."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.records import FloatArray

Corner = tuple[int, ...]


@dataclass(frozen=True)
class TilePlan:
    """Where the tiles lie.

    Attributes
    ----------
    patch
        Size of a tile along (slice, row, column).
    padding
        Zeros (before, after) each axis, so that the image holds at least one tile.
    corners
        First voxel of each tile in the padded image.
    gaussian
        Whether a tile's rim counts less than its middle.
    """

    patch: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    corners: tuple[Corner, ...]
    gaussian: bool


def plan_tiles(shape: Sequence[int], patch: Sequence[int], step: float, *, gaussian: bool) -> TilePlan:
    """Spread the fewest tiles evenly over the image, first and last at the rim.

    Neighbours overlap by at least 1 - `step`.

    The rule is nnU-Net's (`inference/sliding_window_prediction.py`, `compute_steps_for_sliding_window`).
    """
    # An axis shorter than the patch is padded evenly at both ends.
    missing = [max(0, p - n) for n, p in zip(shape, patch, strict=True)]
    padding = tuple((m // 2, m - m // 2) for m in missing)
    starts = []
    # Steps of at most `step` patches, spread evenly, so that the last tile ends at the rim.
    for n, p in zip(shape, patch, strict=True):
        room = max(0, n - p)
        count = math.ceil(room / (p * step)) + 1
        starts.append([round(room * i / max(1, count - 1)) for i in range(count)])
    return TilePlan(tuple(patch), padding, tuple(itertools.product(*starts)), gaussian)


def apply_tiles(predict: Callable[[FloatArray], FloatArray], image: FloatArray, plan: TilePlan) -> FloatArray:
    """Run `predict` on every tile and return the weighted mean, shape (map, slice, row, column), float32.

    Parameters
    ----------
    predict
        (channel, *patch) to (map, *patch).
    image
        (channel, slice, row, column).
    """
    padded = np.pad(image, ((0, 0), *plan.padding))
    inside = tuple(
        slice(before, before + n) for (before, _), n in zip(plan.padding, image.shape[1:], strict=True)
    )
    if len(plan.corners) == 1:
        # One tile has nothing to be blended with.
        return predict(padded)[(slice(None), *inside)].astype(np.float32, copy=False)
    # The middle of a tile weighs most: a network sees least at a tile's rim.
    weight = _gaussian(plan.patch) if plan.gaussian else np.ones(plan.patch, np.float32)
    total: FloatArray | None = None
    weights = np.zeros(padded.shape[1:], np.float32)
    for corner in plan.corners:
        box = tuple(slice(start, start + p) for start, p in zip(corner, plan.patch, strict=True))
        answer = predict(padded[(slice(None), *box)])
        if total is None:
            total = np.zeros((answer.shape[0], *padded.shape[1:]), np.float32)
        total[(slice(None), *box)] += answer * weight
        weights[box] += weight
    if total is None:
        raise ValueError("a plan has at least one tile")
    # Every voxel lies in a tile, so no weight is zero.
    return (total / weights)[(slice(None), *inside)]


def _gaussian(patch: Sequence[int]) -> FloatArray:
    """Weights of a tile.

    Sigma 1/8 of its size, 1 in the middle (nnU-Net, `compute_gaussian`), in float32 never zero.
    """
    weight = np.ones((), np.float64)
    for size in patch:
        # Outer product of one bell for each axis.
        distance = (np.arange(size) - size // 2) / (size / 8)
        weight = np.multiply.outer(weight, np.exp(-0.5 * distance**2))
    return weight.astype(np.float32)
