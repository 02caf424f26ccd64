"""nnU-Net's resampling: cubic or linear spline over the whole box, or in plane only where slices are thick.

The rules are those of nnU-Net v1 (`preprocessing/preprocessing.py`) and v2
(`preprocessing/resampling/default_resampling.py`), which call scikit-image's `resize`; that is scipy's `zoom`
in grid mode with its answer clipped to the input's range, so scipy alone does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from pipeline.geometry import Shape, Triple
from pipeline.records import Array, FloatArray

THICK_RATIO = 3.0
"""Slices count as thick when the largest spacing is more than this times the smallest."""


def find_thick_axis(first_spacing: Sequence[float], second_spacing: Sequence[float]) -> int | None:
    """Return the axis that is resampled apart, or None: the first spacing that is thick decides.

    >>> find_thick_axis((5.0, 1.0, 1.0), (1.0, 1.0, 1.0)), find_thick_axis((3.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    (0, None)
    >>> find_thick_axis((0.2, 1.2, 1.2), (1.0, 1.0, 1.0))    # two thick axes: none is apart
    """
    for spacing in (first_spacing, second_spacing):
        if max(spacing) / min(spacing) > THICK_RATIO:
            axes = [axis for axis, size in enumerate(spacing) if size == max(spacing)]
            return axes[0] if len(axes) == 1 else None
    return None


def plan_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> Shape:
    """Return the number of voxels after resampling; halves round to even, as nnU-Net's do.

    >>> plan_shape((10, 5, 8), (3.0, 1.0, 1.0), (1.0, 2.0, 1.0))
    (30, 2, 8)
    """
    first, second, third = (round(old / new * n) for n, old, new in zip(shape, spacing, target, strict=True))
    return first, second, third


def apply_resize(array: Array, shape: Shape, order: int, thick_axis: int | None) -> FloatArray:
    """Return maps (map, slice, row, column) resized to `shape`.

    Spline of `order`, nearest along the thick axis.

    Raises
    ------
    ValueError
        The target has an empty axis.
    """
    if min(shape) < 1:
        raise ValueError(f"cannot resize {array.shape[1:]} to {shape}")
    if tuple(array.shape[1:]) == shape:
        return array.astype(np.float32, copy=False)
    answer = np.empty((len(array), *shape), np.float32)
    for number, image in enumerate(array):
        answer[number] = (
            _spline(image, shape, order) if thick_axis is None else _in_plane(image, shape, order, thick_axis)
        )
    return answer


def _in_plane(image: Array, shape: Shape, order: int, axis: int) -> FloatArray:
    """Resize slice by slice, then repeat or leave out slices.

    Each source slice is resized once, and only when it is used.
    """
    sources = _nearest(image.shape[axis], shape[axis])
    plane = tuple(size for k, size in enumerate(shape) if k != axis)
    answer = np.empty(shape, np.float32)
    out = np.moveaxis(answer, axis, 0)
    slices = np.moveaxis(image, axis, 0)
    for source in np.unique(sources):
        out[sources == source] = _spline(slices[source], plane, order)
    return answer


def _nearest(old: int, new: int) -> Array:
    """Return which old slice each new one takes.

    Voxel centres at (k + 1/2) old/new - 1/2, halves upwards, clamped.
    """
    source_positions = float(old) / new * (np.arange(new) + 0.5) - 0.5
    source_index: Array = np.clip(np.floor(source_positions + 0.5), 0, old - 1).astype(int)
    return source_index


def _spline(image: Array, shape: Sequence[int], order: int) -> Array:
    if image.shape == tuple(shape):
        return image
    wide = image.astype(np.float64)
    factors = [new / old for new, old in zip(shape, image.shape, strict=True)]
    moved: Array = ndimage.zoom(wide, factors, order=order, mode="nearest", grid_mode=True)
    np.clip(moved, wide.min(), wide.max(), out=moved)
    return moved


def target_spacing(spacing: Triple, network: Triple, *, planar: bool) -> Triple:
    """Return the spacing to resample to: a 2D network leaves the first axis as it is."""
    return (spacing[0], network[1], network[2]) if planar else network
